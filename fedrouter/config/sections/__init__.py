"""The sections of the configuration, by subject; one class a section."""
