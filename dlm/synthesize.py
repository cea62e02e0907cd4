"""Make training pairs of the correction model: what was said, and what the recogniser made of it.

    python -m dlm.synthesize out=pairs/tts source.text=sentences.txt.xz               # text -> voices -> recogniser
    python -m dlm.synthesize out=pairs/tts source.text=... shard_index=3 shard_count=16    # one of sixteen machines
    python -m dlm.synthesize out=pairs/real source=store source.store.folder=store/real    # features that exist already
    python -m dlm.synthesize out=pairs/dev source=store source.store.folder=store/dev difficulties=none
    python -m dlm.synthesize out=pairs/ar source.text=... models=[tiny] decoder=ar    # any recogniser, its own writing

Shard 00007 is 00007.jsonl, one line an utterance: id, text, voice, seconds, hypotheses [[text, score], ...] with the
greedy 1-best first. It is renamed into place when whole, and depends on the seed and its number only: after an
interruption the same command goes on and makes the same pairs. manifest.json says how and with what error rates.
Progress goes to standard error. Several checkpoints: 'models=[run1/model,run2/model]'.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
from collections import Counter
from functools import cached_property
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf

from asr.console.program import program

CONFIG_FOLDER = str(Path(__file__).parent.parent / "conf")
ELSEWHERE = ("hydra", "out", "shard_index", "shard_count", "workers", "device")  # settings that leave the pairs alone
_worker: dict = {}  # of this process: its settings, source and recogniser


class SpokenText:
    """Sentences spoken in drawn voices, tempi and pitches, then carried through rooms, noise and microphones.

    Args:
        text: sentences, one a line (.xz is read too).
        engines: text-to-speech engines (`dlm.tts`); their families of voices get equal shares.
        sentences: how many, drawn without repetition (default: all).
        longest: leave out sentences of more characters.
        normalise: written text is spoken as it stands, and its words without case and punctuation are the text of the
            pair; sentences with digits are left out.
        warp: range of the vocal-tract warp, for engines that do not move formants themselves.
        strength: of the augmentation (0 speed only, 1 default).
        noise: folder of noise recordings to mix in.
        seed: repeats all of it.
    """

    def __init__(
        self,
        text: str,
        engines: list,
        sentences: int | None = None,
        longest: int = 200,
        normalise: bool = False,
        warp: tuple[float, float] = (0.84, 1.18),
        strength: float = 1.0,
        noise: str | None = None,
        seed: int = 0,
    ):
        from asr.audio.augment import seeded
        from dlm.tts import Cast

        lines = [line for line in _read_lines(text) if 0 < len(line) <= longest]
        if normalise:
            lines = [line for line in lines if not any(map(str.isdigit, line))]
        self.seed, self.normalise, self.warp = seed, normalise, warp
        self.order = seeded(seed).permutation(len(lines))[:sentences]
        self.lines, self.cast = lines, Cast(engines)
        self.noise, self.strength = noise, strength

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def chain(self):
        """The augmentation; noises are read when the first sentence is spoken."""
        from asr.audio.augment import recorded_speech_chain

        return recorded_speech_chain(_noises(self.noise), self.strength)

    def utterance(self, index: int) -> tuple[dict, object]:
        """id, text and voice of one utterance, and its normalised log-mel [frames, mel] (None: cannot be said)."""
        import torch

        from asr.audio.features import log_mel, normalise

        about, wave, warp = self._spoken(index)
        return about, None if wave is None else normalise(log_mel(torch.from_numpy(wave), warp=warp))

    def sound(self, index: int) -> tuple[dict, object]:
        """The same with its wave [samples] at 16 kHz; vocal tracts are warped in features only."""
        return self._spoken(index)[:2]

    def _spoken(self, index: int) -> tuple[dict, object, float]:
        from asr.audio.augment import seeded
        from asr.text.tokenizer import normalise_text

        rng, number = seeded(self.seed, index), int(self.order[index])
        utterance, wave, warp = self.cast.speak(self.lines[number], rng, self.warp)
        text = normalise_text(utterance.text) if self.normalise else utterance.text
        about = {"id": f"tts-{number}", "text": text, "voice": str(utterance.voice)}
        return about, None if wave is None else self.chain(wave, rng), warp


class StoredSpeech:
    """Utterances of a store of features that exist already, recorded or synthetic.

    Args:
        store: has `examples` (id, text, speaker) and `features(index)` -> normalised log-mel [frames, mel].
        utterances: use only so many, spread evenly over the store.
    """

    def __init__(self, store, utterances: int | None = None):
        self.store = store
        total = len(store.examples)
        count = min(utterances or total, total)
        self.indices = [number * total // count for number in range(count)]

    def __len__(self) -> int:
        return len(self.indices)

    def utterance(self, index: int) -> tuple[dict, object]:
        """As `SpokenText.utterance`; the voice is the speaker."""
        place = self.indices[index]
        example = self.store.examples[place]
        return {"id": example.id, "text": example.text, "voice": example.speaker}, self.store.features(place)


def _read_lines(path: str) -> list[str]:
    import lzma

    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [line.strip() for line in file]


def _noises(folder: str | None) -> list:
    from asr.audio import load
    from asr.audio.formats import is_recording

    files = sorted(filter(is_recording, Path(folder).rglob("*"))) if folder else []
    return [load(path) for path in files]


# -- shards ------------------------------------------------------------------------------------------------


def start_worker(settings: dict) -> None:
    """Tell this process what to do; the parent alone answers to an interrupt from the keyboard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker["settings"] = settings


def _tools() -> tuple:
    """The source and the recogniser of this process, loaded for its first shard."""
    if "tools" not in _worker:
        import torch
        from hydra.utils import instantiate

        from dlm.hypotheses import Hypothesiser, Listener

        torch.set_num_threads(1)
        settings = _worker["settings"]
        options = {name: settings[name] for name in ("nbest", "device")}
        if settings.get("decoder"):
            ears = Listener(settings["models"], settings["decoder"], **options)
        else:
            difficulties = instantiate(settings["difficulties"], _convert_="all")
            ears = Hypothesiser(settings["models"], difficulties, bf16=settings["bf16"], **options)
        _worker["tools"] = instantiate(settings["source"], _convert_="all"), ears
    return _worker["tools"]


def make_shard(job: tuple[int, int, int, Path]) -> int:
    """Write one shard: its number, utterances in a shard, seed and folder; returns the pairs in it."""
    from asr.audio.io import atomic_path

    shard, size, seed, folder = job
    source, ears = _tools()
    indices = range(shard * size, min((shard + 1) * size, len(source)))
    speak = source.sound if _worker["settings"].get("decoder") else source.utterance
    heard = [pair for pair in map(speak, indices) if pair[1] is not None]
    nbests = ears([said for _, said in heard], (seed, shard))
    with atomic_path(folder / f"{shard:05d}.jsonl") as partial:
        with open(partial, "w", encoding="utf-8") as file:
            for (about, said), nbest in zip(heard, nbests, strict=True):
                row = {**about, "seconds": round(len(said) / ears.rate, 2), "hypotheses": nbest}
                file.write(json.dumps(row) + "\n")
    return len(heard)


def synthesize(settings: dict) -> dict:
    """Make the missing shards of this job in worker processes; returns the manifest.

    Raises:
        ValueError: the folder holds shards made with other settings.
    """
    from hydra.utils import instantiate
    from tqdm import tqdm

    folder, size = Path(settings["out"]), settings["shard_size"]
    made_with = {key: value for key, value in settings.items() if key not in ELSEWHERE and value is not None}
    source = instantiate(settings["source"], _convert_="all")
    if settings.get("decoder") and not hasattr(source, "sound"):
        raise ValueError("decoder= wants sound, and this source has features only: leave it out, or take source=tts")
    _check_settings(folder, made_with)
    shards = -(-len(source) // size)
    mine = range(settings["shard_index"], shards, settings["shard_count"])
    missing = [shard for shard in mine if not (folder / f"{shard:05d}.jsonl").exists()]
    jobs = [(shard, size, settings["seed"], folder) for shard in missing]
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(settings["workers"], max(1, len(jobs))), start_worker, (settings,)) as pool:
        results = pool.imap_unordered(make_shard, jobs)
        for _ in tqdm(results, total=len(mine), initial=len(mine) - len(missing), unit="shard", file=sys.stderr):
            pass
    manifest = {"settings": made_with, "shards": shards, **statistics(folder)}
    _write_json(folder / "manifest.json", manifest)
    return manifest


def _check_settings(folder: Path, settings: dict) -> None:
    path = folder / "manifest.json"
    if not path.exists():
        _write_json(path, {"settings": settings})
        return
    before = json.loads(path.read_text())["settings"]
    if before != json.loads(json.dumps(settings)):
        differing = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        raise ValueError(f"{folder} holds pairs made with other {', '.join(differing)}: name another folder with out=")


def _write_json(path: Path, value: dict) -> None:
    from asr.audio.io import atomic_path

    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def statistics(folder: Path) -> dict:
    """Numbers of the finished shards: pairs, hours, error rates of the 1-best by engine, pairs of each voice.

    Case and punctuation of written texts do not count as errors.
    """
    from asr.score import error_counts
    from asr.text.tokenizer import normalise_text

    rows = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    texts = [normalise_text(row["text"]) for row in rows]
    best = [normalise_text(row["hypotheses"][0][0]) for row in rows]
    engines = np.array([row["voice"].partition(":")[0] if ":" in row["voice"] else "recorded" for row in rows])
    words, characters = error_counts(texts, best), error_counts(texts, best, "character")
    return {
        "finished_shards": len(list(folder.glob("*.jsonl"))),
        "pairs": len(rows),
        "hours": round(sum(row["seconds"] for row in rows) / 3600, 3),
        "wer": words.rate,
        "wer_by_engine": {
            str(name): round(float(words.errors[engines == name].sum() / words.reference[engines == name].sum()), 4)
            for name in np.unique(engines)
        },
        "cer": characters.rate,
        "words": int(words.reference.sum()),
        **{kind: int(getattr(words, kind).sum()) for kind in ("substitutions", "insertions", "deletions")},
        "over_40_percent_cer": int((characters.errors > 0.4 * characters.reference).sum()),
        "voices": dict(sorted(Counter(row["voice"] for row in rows).items())),
    }


@hydra.main(config_path=CONFIG_FOLDER, config_name="synthesize", version_base="1.3")
def run(config: DictConfig) -> None:
    try:
        manifest = synthesize(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    except (ValueError, OSError, MissingMandatoryValue) as error:
        print(f"dlm.synthesize: {error}", file=sys.stderr)
        sys.exit(2)
    shown = {key: value for key, value in manifest.items() if key not in ("settings", "voices")}
    print(json.dumps({**shown, "voices": len(manifest["voices"])}))


@program
def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        print("settings and defaults, overridden as key=value:\n")
        print(Path(CONFIG_FOLDER, "synthesize.yaml").read_text())
        return 0
    try:
        run()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last finished shard", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
