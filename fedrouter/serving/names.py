"""The names by which clients ask for models: the run, its tasks, and the base model."""

from dataclasses import dataclass
from pathlib import Path

from fedrouter.inference.routed_model import RoutedModel
from fedrouter.serving.requests import unknown_model

AUTO = "auto"


@dataclass(frozen=True)
class ModelNames:
    """What the field `model` of a request may be.

    Attributes:
        run: the run's name, by which prompts are routed, as by "auto".
        base: the base model's name, which answers without adapters.
        tasks: the names of tasks, each of which answers with its adapter.
    """

    run: str
    base: str
    tasks: tuple[str, ...]

    @classmethod
    def of(cls, model: RoutedModel, folder: Path) -> "ModelNames":
        """The names for a run in a folder."""
        base = Path(model.config.model.name).name
        return cls(folder.resolve().name, base, tuple(model.multi_adapter.names))

    def task(self, name: str) -> str | None:
        """What `GenerationRequest.task` is for a model's name.

        Raises:
            ServingError: 404, there is no such model.
        """
        if name in self.tasks:
            return name
        if name in (AUTO, self.run):
            return None
        if name == self.base:
            return ""
        raise unknown_model(name)

    def cards(self, created: int, max_model_len: int) -> list[dict[str, object]]:
        """The models as `GET /v1/models` lists them; those that are routed or adapted have the base
        model as their parent."""

        def card(name: str, parent: str | None) -> dict[str, object]:
            return {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "fedrouter",
                "root": name if parent is None else parent,
                "parent": parent,
                "max_model_len": max_model_len,
            }

        routed = dict.fromkeys((self.run, AUTO))
        return [card(self.base, None), *(card(n, self.base) for n in (*routed, *self.tasks))]
