"""The Dockerfile as data: enough of its grammar for ours."""

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"


@dataclass
class Image:
    """A stage, with what it took over from the stage that it is made from."""

    name: str
    copies: list[tuple[list[str], str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def lay_out(self, folder: Path) -> None:
        """Put into a folder what the image has in its working folder."""
        for sources, target in self.copies:
            for source in sources:
                path = ROOT / source
                place = folder / target
                if path.is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(path, place, ignore=ignored, dirs_exist_ok=True)
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, place / path.name)


def images() -> dict[str, Image]:
    """Every stage of the Dockerfile."""
    found: dict[str, Image] = {}
    image = Image("")
    for instruction, rest in _instructions():
        match instruction:
            case "FROM":
                parent, name = rest.split(" AS ")
                image = found[name] = Image(name)
                if parent in found:
                    image.environment = dict(found[parent].environment)
            case "COPY" if not rest.startswith("--from="):
                *sources, target = rest.split()
                image.copies.append((sources, target))
            case "ENV":
                image.environment |= dict(re.findall(r"(\w+)=(\S+)", rest))
            case "USER":
                image.user = rest
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.health = json.loads(rest.partition("CMD ")[2])
    return found


def _instructions() -> list[tuple[str, str]]:
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (instruction, rest)
        for instruction, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]
