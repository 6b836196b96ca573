"""Templates that make an instruction from several columns."""

from string import Formatter

from fedrouter.errors import ConfigError

Pieces = list[tuple[str, str | None]]  # of a template: literal text, and the field after it


def parse_template(template: str) -> Pieces:
    """A template as pieces: a literal text and the field that follows it, if any.

    Only plain ``{column}`` fields: nothing of a value but its text can be reached.

    Raises:
        ConfigError: another kind of field, none at all, or an unpaired brace.
    """
    at = f"data.sources template {template!r}"
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"{at}: {error}; write {{{{ for a brace") from error
    for _, field, format_spec, conversion in pieces:
        if field is not None and (
            not field or set(field) & set(".[]{}") or format_spec or conversion
        ):
            raise ConfigError(
                f"{at}: {field!r} is not a plain column name; fields are {{column}}, nothing more"
            )
    if all(field is None for _, field, _, _ in pieces):
        raise ConfigError(f"{at} names no column; write one as {{column}}")
    return [(literal, field) for literal, field, _, _ in pieces]
