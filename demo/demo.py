"""`make demo`: teaches a product that no bundle was trained on, inspects it, and sums up what was found.

Run it with the Python that has the agent: `demo.py OUT [--max-frames N]`. It writes only to the folder OUT.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import webbrowser
from collections import Counter
from pathlib import Path

PICTURES = Path(__file__).parent / "teach"
PRODUCT = "alien"
PORT = 8080
AGENT = Path(sys.executable).with_name("zsad-agent")
# e.g. `10:28:03.123Z cam0 #12  ANOMALOUS  0.731  (threshold 0.500)  41 ms  5-damaged.jpg  1 region, …`
RESULT = re.compile(r" #\d+  (?P<verdict>OK|ANOMALOUS|UNKNOWN) .*  \d-(?P<truth>whole|damaged)\.jpg")


def main(out: Path, flags: list[str]) -> int:
    """Returns the agent's exit code."""
    shutil.rmtree(out / "state", ignore_errors=True)
    out.mkdir(exist_ok=True)
    os.environ |= {"STATE_DIRECTORY": str(out / "state"), "CACHE_DIRECTORY": str(out / "cache")}
    page = f"127.0.0.1:{free_port()}"
    config = {
        "source": {"source": str(PICTURES / "test"), "loop": True, "fps": 2.0},
        "inference": {"product": PRODUCT},
        "mqtt": {"broker": "embedded"},
        "http": {"listen": "off"},
        "web": {"listen": page},
    }
    (out / "agent.yaml").write_text(json.dumps(config, indent=2))  # JSON is YAML too

    say(f"1. Teach: {len(list((PICTURES / 'good').iterdir()))} pictures of good toy aliens. No bundle has seen one.")
    empty = ["--config", os.devnull]  # independent of /etc/zsad-agent/agent.yaml
    teach = [AGENT, "teach", PICTURES / "good", "--product", PRODUCT, "--json", *empty]
    taught = subprocess.run(teach, stdout=subprocess.PIPE, text=True, check=False)
    if taught.returncode != 0:
        return taught.returncode
    print(promise(json.loads(taught.stdout)))

    say(f"2. Inspect: other aliens, some damaged. Ctrl-C ends it.\n   The page: http://{page}")
    if sys.stdout.isatty() and {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        webbrowser.open(f"http://{page}")
    counts: Counter[tuple[str, str]] = Counter()  # of (truth, verdict)
    outputs = ["--print-results", "--save-heatmaps", out / "heatmaps"]
    command = [AGENT, "--config", out / "agent.yaml", *outputs, *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as agent:
        assert agent.stdout is not None
        while True:
            try:
                for line in agent.stdout:
                    print(line, end="", flush=True)
                    if (match := RESULT.search(line)) is not None:
                        counts[match["truth"], match["verdict"]] += 1
                break
            except KeyboardInterrupt:  # the agent got it too, and ends
                continue
    say(summary(counts))
    print(f"   Heatmaps: {out / 'heatmaps'}\n   Next, with your camera: {AGENT} init")
    return agent.returncode


def promise(taught: dict[str, float]) -> str:
    """What `zsad-agent teach --json` says about good parts."""
    mean, most = taught["false_reject_rate"], taught["false_reject_rate_90"]
    return f"   Promised: {mean:.0%} of good parts are rejected, at most {most:.0%} (with 90 % confidence)."


def summary(counts: Counter[tuple[str, str]]) -> str:
    """What was found, by what the names of the pictures say."""
    damaged = sum(number for (truth, _), number in counts.items() if truth == "damaged")
    whole = sum(number for (truth, _), number in counts.items() if truth == "whole")
    found, rejected = counts["damaged", "ANOMALOUS"], counts["whole", "ANOMALOUS"]
    return (
        f"3. Found: {damaged + whole} inspected; {found} of {damaged} damaged ones found, "
        f"{rejected} of {whole} whole ones rejected."
    )


def free_port() -> int:
    """`PORT`, or any other if another program has it."""
    for port in (PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as server:
                return int(server.getsockname()[1])
        except OSError:
            continue
    raise SystemExit("no port of 127.0.0.1 is free")


def say(text: str) -> None:
    """A step of the demo, apart from what the agent prints."""
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(1)
