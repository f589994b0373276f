"""The commands of docs/training.md for a GPU host, with four processes on a CPU, random weights and small numbers."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mvtec_tree import draw_part, make_mvtec_tree, make_textures

from zsad_core.backbones import ensure_torchvision_imports
from zsad_core.backbones.vit import import_timm

ROOT = Path(__file__).parents[2]
BACKBONE, CLIP = "vit_small_patch16_dinov3", "ViT-S-32-alt"
SMALL = ["--input-size", "64", "--batch-size", "8", "--workers", "0", "--device", "cpu"]
FEW = ["optimisation.epochs=1", "optimisation.steps_per_epoch=2", "validation.max_per_class=4"]
CHANGES = {  # command -> flags that override those of the document
    "train": ["--backbone", BACKBONE, "--text-encoder", f"open_clip:{CLIP}:CLIP_VITL14_336.pt", *SMALL, "--set", *FEW],
    "distill": [*SMALL, "--pool", "8", "--set", *FEW, "sampling.train_hw=[[64, 64]]", "validation.synthetic=4"],
    "evaluate": ["--device", "cpu"],
    "export": ["--max-images", "2", "--gate-images", "4", "--accept-loss"],  # what learnt nothing ranks by chance
    "bench": ["--seconds", "1"],
}


def commands() -> list[list[str]]:
    """The words of each command in the section."""
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    section = text.partition("\n## On a GPU host\n")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```bash\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]


PROGRAMS = {
    "torchrun": ["-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"],
    "python": [],
    "zsad-convert": ["-m", "zsad_convert.cli"],
    "zsad-agent": ["-m", "zsad_agent.cli"],
}


def runnable(words: list[str]) -> list[str]:
    """A command of the document for this Python, checkout and CPU."""
    program, *rest = words
    name = next(found[0] for word in words if (found := re.findall(rf"\b({'|'.join(CHANGES)})(?:\.py)?$", word)))
    scripts = [str(ROOT / word) if word.startswith("training/") else word for word in rest]
    return [sys.executable, *PROGRAMS[program], *scripts, *CHANGES[name]]


def make_visa_tree(root: Path) -> None:
    rng = np.random.default_rng(1)
    rows = ["object,split,label,image,mask"]
    for folder in ("Images/Normal", "Images/Anomaly", "Masks/Anomaly"):
        (root / "candle/Data" / folder).mkdir(parents=True)
    for number in range(3):
        for label, folder in (("normal", "Normal"), ("anomaly", "Anomaly")):
            image, mask = draw_part(rng, defect=label == "anomaly")
            names = [f"candle/Data/Images/{folder}/{number:03}.JPG", ""]
            cv2.imwrite(str(root / names[0]), image)
            if label == "anomaly":
                names[1] = f"candle/Data/Masks/Anomaly/{number:03}.png"
                cv2.imwrite(str(root / names[1]), mask)
            rows.append(f"candle,test,{label},{','.join(names)}")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with the data sets and weights that the commands name."""
    ensure_torchvision_imports()
    open_clip = pytest.importorskip("open_clip", reason="pip install 'zsad-agent[clip]'")
    make_mvtec_tree(tmp_path / "DATASETS/mvtec_ad", category="bottle", good=12, bad=12)
    make_visa_tree(tmp_path / "DATASETS/visa")
    make_textures(tmp_path / "DATASETS/cc0_textures", 2)  # CLIP embeds each material, slowly
    torch.manual_seed(0)
    for name, file in ((BACKBONE, "DINOV3_VITL16.pth"), ("tf_efficientnet_lite0", "EFFICIENTNET_LITE0.pth")):
        torch.save(import_timm().create_model(name).state_dict(), tmp_path / file)
    torch.save(open_clip.create_model(CLIP).state_dict(), tmp_path / "CLIP_VITL14_336.pt")
    return tmp_path


@pytest.mark.chaos
def test_the_commands_for_a_gpu_host_lead_to_a_bundle_on_a_device(workplace: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "STATE_DIRECTORY": str(workplace / "state")}
    told = []
    for words in map(runnable, commands()):
        done = subprocess.run(
            words, cwd=workplace, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr[-3000:]}"
        told.append(done.stderr + done.stdout)
    assert "| ava_dino | visa | 1 |" in (workplace / "runs/vitl16/table.md").read_text()
    assert list((workplace / "runs/vitl16").rglob("events.out.*"))
    assert "teacher's answers: at most" in told[1]
    assert (workplace / "bundles/tiny/manifest.json").is_file()
