"""Turn a trained run into a model folder that is ready for the package or the Hub, with a generated card.

    python -m recipes.export_compact outputs/ctc_compact exported/ctc_compact --data "4.6 h of LibriSpeech ..."
    python -m recipes.export_compact outputs/ctc_finetune finetuned --data "our own calls" --license other
    python -m recipes.export_compact outputs/dllm_asr_large me/dllm-asr --data "LibriSpeech" --push

The run's averaged weights are copied as they are (compact models are saved in half precision). The card names the
data as given, the command and the results of the last validation, which `metrics.jsonl` of the run holds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from asr.console.program import program

LARGEST = 30e6  # bytes; weights in the package stay small


def last_validation(run: Path) -> dict[str, float]:
    """The metrics of the last validation of a run, its step among them.

    Raises:
        ValueError: there was none.
    """
    log = run / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    found = [row for row in map(json.loads, lines) if row.pop("split") == "validation"]
    if not found:
        raise ValueError(f"{run}: metrics.jsonl has no validation; let the run reach one (trainer.validate_every)")
    return found[-1]


def command(run: Path) -> tuple[str, dict]:
    """The command of a run and its configuration, as Hydra has written them down."""
    from omegaconf import OmegaConf

    overrides, config = run / ".hydra" / "overrides.yaml", run / ".hydra" / "config.yaml"
    if not overrides.exists():
        return f"python -m recipes.train name={run.name}", {}
    given = [str(override) for override in OmegaConf.load(overrides)]
    return " ".join(["python -m recipes.train", *given]), OmegaConf.to_container(OmegaConf.load(config))


def parameters(weights: Path) -> int:
    """Number of weights in a safetensors file, from its header."""
    from math import prod

    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        return sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118


def export(run: Path, out: Path, data: str, license: str, extra: list[Path], limits: str) -> Path:
    """Write the model folder; it replaces one that is there.

    Raises:
        ValueError: the run has no exported model or no validation.
    """
    from asr.hub import ModelCard

    model = run / "model"
    if not (model / "model.safetensors").exists():
        raise ValueError(f"{run}: no model/model.safetensors; a run writes it at each validation")
    results = last_validation(run)
    step = int(results.pop("step"))
    recipe, config = command(run)
    own = json.loads((model / "config.json").read_text(encoding="utf-8"))
    count = parameters(model / "model.safetensors")
    out.mkdir(parents=True, exist_ok=True)
    for file in [*(f for f in model.iterdir() if f.is_file() and f.name != "README.md"), *extra]:
        shutil.copyfile(file, out / file.name)
    task = str(config.get("task", {}).get("_target_", "")).rsplit(".", 1)[-1] or "a model"
    card = ModelCard(
        name=out.name,
        summary=f"{count / 1e6:.2f} M trained weights of {task}, after {step} steps.",
        data=data,
        recipe=recipe,
        results=results,
        measured_on="the held-out data of the run (its last validation)",
        limits=limits,
        license=license,
        base_models=tuple(base_models(own)),
    )
    card.write(out)
    return out


def base_models(config: dict) -> list[str]:
    """Names of the pretrained parts of a large recogniser."""
    settings = config.get("settings", {})
    parts = (settings.get("encoder"), settings.get("language_model"))
    return [part["name"] for part in parts if part and part.get("name")]


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload a model folder to the Hub; returns its address."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repository, folder_path=folder))


@program
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.export_compact",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of the run, outputs/NAME")
    parser.add_argument("out", help="folder to write; with --push the repository, OWNER/NAME")
    parser.add_argument("--data", required=True, help="what it was trained on, for the card")
    parser.add_argument("--limits", default="Only the data named above was tested.", help="for the card")
    parser.add_argument("--license", default="cc-by-4.0")
    parser.add_argument("--add", nargs="*", type=Path, default=[], help="further files, such as ngram.npz")
    parser.add_argument("--push", action="store_true", help="upload to the Hub as well")
    parser.add_argument("--private", action="store_true", help="keep the repository private")
    args = parser.parse_args(argv)
    folder = args.run / "hub" if args.push else Path(args.out)
    try:
        export(args.run, folder, args.data, args.license, args.add, args.limits)
        print(push(folder, args.out, args.private) if args.push else folder)
    except (ValueError, OSError) as error:
        print(f"recipes.export_compact: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    size = (folder / "model.safetensors").stat().st_size
    if not args.push and size > LARGEST:
        print(f"{folder}: {size / 1e6:.0f} MB is much for a package; keep it beside, or on the Hub", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
