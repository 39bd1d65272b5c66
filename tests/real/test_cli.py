"""The command line as a user runs it: a process, real weights, pipes and a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import jsonschema
import pytest

from nudging_llm import Provenance

pytestmark = pytest.mark.real
COMMAND = [sys.executable, "-m", "nudging_llm.cli"]


@pytest.fixture(scope="module", autouse=True)
def fetched(starter):
    """The pair is there before any process is timed or interrupted."""


def run(*words: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], input=stdin, capture_output=True, text=True, env=os.environ | env, timeout=300
    )


def terminal(*words: str, **env: str) -> str:
    """What a terminal would be sent on stdout."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm-256color"} | env,
    )
    os.close(theirs)
    out = b""
    try:
        while chunk := os.read(ours, 4096):
            out += chunk
    except OSError:  # closed by the other side
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return out.decode()


def test_piped_output_is_plain_and_the_summary_goes_to_stderr():
    done = run("ask", "What is the capital of France?", "-n", "12")
    assert done.returncode == 0
    assert done.stdout == "The capital of France is Paris.\n"
    assert "nudged" in done.stderr
    assert "forwards per token" in done.stderr
    assert "ended: stop" in done.stderr


def test_stdin_is_added_to_the_question_and_json_is_the_record():
    done = run("ask", "Say it again:", "--json", "-n", "6", stdin="Rivers flow to the sea.\n")
    record = json.loads(done.stdout)
    jsonschema.validate(record, Provenance.json_schema())
    assert record["text"]


def test_nudged_words_are_marked_by_colour_and_underline_in_a_terminal():
    assert "\x1b[4;95m" in terminal("ask", "How do vaccines work?", "-n", "8")
    plain = terminal("ask", "How do vaccines work?", "-n", "8", "--no-color")
    assert "\x1b[4m" in plain and "95m" not in plain


def test_forms(tmp_path):
    (tmp_path / "trip.json").write_text(
        '{"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}'
    )
    done = run(
        "ask", "I would like to spend 3 days in Paris.", "-n", "60", "--json-schema", str(tmp_path / "trip.json")
    )
    assert json.loads(done.stdout).keys() == {"city", "days"}, done.stderr
    assert "by the grammar" in done.stderr


def test_ctrl_c_prints_what_there_is():
    process = subprocess.Popen(
        [*COMMAND, "ask", "Tell a long story about a river.", "-n", "400"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a background job inherits "ignore"
    )
    first = process.stdout.read(5)  # it has begun, and has hundreds of tokens to go
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (first + rest).strip()
    assert b"ended: cancelled" in errors
    assert b"Traceback" not in errors


def test_chat_reads_lines():
    done = run("chat", "-n", "8", stdin="What is the capital of France?\nAnd of Spain?\n\n")
    assert done.returncode == 0
    assert len([line for line in done.stdout.splitlines() if line.strip()]) >= 2
