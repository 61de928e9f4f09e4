"""Secrets are masked wherever something is written down, and code is not. Those planted here are made on the spot.

The second half runs real processes with secrets in environment, code and errors, and then searches every byte.
"""

from __future__ import annotations

import base64
import os
import random
import re
import string
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from hrm_lab import redaction
from hrm_lab.config import Config, settings
from hrm_lab.errors import ConfigError
from hrm_lab.launchers import LocalLauncherConfig, SlurmLauncherConfig, check_slurm
from hrm_lab.redaction import MASK, is_secret_name, redact, redacted
from hrm_lab.validation import refuse_secret, validate
from tests.test_reproduce import SMALL, copy_of_the_working_tree, write_csv

ROOT = Path(__file__).parents[1]
DICE = random.Random(0)


def letters(number: int, of: str = string.ascii_letters + string.digits) -> str:
    """Some, with a digit among them."""
    return "".join(DICE.choices(of, k=number - 1)) + "7"


FORMS = {
    "GitHub": "ghp_" + letters(36),
    "GitHub, fine-grained": "github_pat_" + letters(22) + "_" + letters(59),
    "GitLab": "glpat-" + letters(20),
    "Hugging Face": "hf_" + letters(34),
    "OpenAI": "sk-" + letters(48),
    "OpenAI project": "sk-proj-" + letters(60),
    "Anthropic": "sk-ant-api03-" + letters(90),
    "AWS id": "AKIA" + letters(16, string.ascii_uppercase),
    "Slack": "xoxb-" + letters(12, string.digits) + "-" + letters(24),
    "Google": "AIza" + letters(35),
    "JWT": ".".join(["eyJ" + letters(20), "eyJ" + letters(40), letters(43)]),
}
KEY_BLOCK = letters(64) + "\n" + letters(64)
KEY = "-----BEGIN PRIVATE " + f"KEY-----\n{KEY_BLOCK}\n-----END PRIVATE " + "KEY-----"
# What it is written like, with the place of the secret.
ASSIGNMENTS = [
    "password={}",
    "failed: password={} was refused",
    "{{'name': 'a', 'api_key': '{}'}}",
    '"token": "{}"',
    '{{\\"access_token\\": \\"{}\\"}}',
    "  api_key: {}",
    "password: {}  # of ann",
    "+export FOO_SECRET={}",
    "-FOO_KEY={}\r\n",
    "aws_secret_access_key = {}",
    "connect(user, dbPassword='{}')",
    "--password={} --x",
    "https://host/path?token={}&x=1",
    "postgresql://ann:{}@host/db",
    "redis://:{}@[::1]:6379",
    "machine host login ann password {}",
    "Authorization: Bearer {}",
    '"authorization": "Basic {}"',
    "--password {} --x",
    "['curl', '--api-key', '{}']",
    "Cookie: session={}",
]
CODE = [
    "tokens = tokenizer(text2)",
    "sorted(runs, key=lambda run: run.step2)",
    "num_tokens: 81",
    "sort_keys=False",
    "password: str = setting1",
    "token: int64",
    "token = self.token2",
    "api_key = os.environ['API_KEY_2']",
    "login(password=password, token=token1)",
    "secret = load2(path)",
    "password = f'{prefix1}abc'",
    "pad_token='<pad1>'",
    "token_ids = [1, 2, 345678]",
    "export HF_TOKEN=$(cat ~/.cache/token1)",
    "PASSWORD_FILE=/run/secrets/password1",
    "f'Authorization: Bearer {token}'",
    "uri = f'https://{user}:{password}@{host}:{port}/'",
    "http://localhost:5000/#/experiments/1 of ann@example.org",
    "postgresql://ann:$PASSWORD1@host/db",
    "postgresql://ann:$password@host/db",
    "postgresql://ann:${PASSWORD1}@host/db",
    "postgresql://ann:%(password)s@host/db",
    "postgresql://ann:%s@host/db",
    "postgresql://ann:<password1>@host/db",
    "https://ann-of-the-second-floor@host/x",
    "curl --token $TOKEN1 --password <password1> --api-key KEY_OF_YOURS",
    "--token takes 1 word",
    "url = 'password=' + first1 + ' and ' + second",
    "password = '{first1} and second'",
    "torch==2.11.0 --hash=sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
]


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """It is looked at once in a process."""
    redaction._of_environment.cache_clear()
    yield
    redaction._of_environment.cache_clear()


fragments = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*FORMS.values(), KEY, *CODE, *ASSIGNMENTS, MASK, "\n", '"', "=", ": ", "://"]),
)


@given(st.lists(fragments, max_size=8).map("".join))
def test_doing_it_again_changes_nothing(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(
    st.sampled_from(sorted(FORMS)),
    st.text(max_size=30).filter(lambda text: not text[-1:].isalnum() and text[-1:] not in ("_", "-")),
    st.sampled_from(["", " ", "\n", '"', "'", ")", ",", "\\n", "/", "@host", "*"]),
)
def test_a_token_of_a_known_form_is_masked_anywhere(form: str, before: str, after: str) -> None:
    masked = redact(before + FORMS[form] + after)
    assert FORMS[form][-6:] not in masked
    assert MASK in masked


@given(
    st.sampled_from(ASSIGNMENTS),
    st.text(string.ascii_letters + string.digits + "+-!", min_size=8, max_size=40).map(lambda text: f"{text}x7q"),
)
@example("--password {} --x", "-0000000x7q")
@example("password={}", "bfloat00x7q")
def test_what_is_assigned_to_a_telling_name_is_masked(form: str, secret: str) -> None:
    assume(not (form.startswith("--password {}") and secret.startswith("--")))  # that is another option
    text = form.format(secret)
    assert redact(text) == form.format(MASK)


@pytest.mark.parametrize(
    ("form", "secret"),
    [
        ("postgresql://u:{}@h", "%24ecret99"),
        ("postgresql://u:{}@h", "$ecret99"),
        ("password: {}", "$ecret99x"),
        ("password='{}'", "correct horse 9"),
        ('--password "{}"', "correct horse 9"),
        ("https://{}@host/x", letters(20)),
    ],
)
def test_a_password_may_look_like_a_placeholder_or_like_words(form: str, secret: str) -> None:
    assert redact(form.format(secret)) == form.format(MASK)


@pytest.mark.parametrize("line", CODE)
def test_code_comes_through(line: str) -> None:
    for text in (line, f"+{line}\n", f"    {line}\r\n"):
        assert redact(text) == text


def test_a_private_key_is_masked_in_every_notation() -> None:
    patch = "".join(f"+{line}\n" for line in KEY.splitlines())
    for text in (KEY, patch, repr(KEY), f'key = """{KEY}"""\nx = 1'):
        assert not any(line in redact(text) for line in KEY_BLOCK.splitlines())
    assert redact(f"{KEY}\nx = 1").endswith("x = 1")


def test_nothing_of_this_repository_is_changed() -> None:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in (ROOT / name for name in names.split("\0") if name):
        text = file.read_text(errors="replace") if file.is_file() else ""
        for old, new in zip(text.splitlines(), redact(text).splitlines(), strict=True):
            assert old == new or MASK in old, file  # a test of what is shown instead of a password


@given(st.text(max_size=20), st.text(max_size=20))
def test_values_of_secret_variables_are_masked_in_every_form(before: str, after: str) -> None:
    value = 'wön "der\\ful'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOME_TOKEN", value)
        patch.setenv("DATABASE_URL", "://".join(["postgresql", "ann:fortytwo%21@host/db"]))
        redaction._of_environment.cache_clear()
        code = base64.b64encode(value.encode()).decode()
        for form in (value, quote(value), repr(value)[1:-1], code, "fortytwo%21"):
            assert form not in redact(before + form + after)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSH_AUTH_SOCK", "/tmp/ssh-a1b2/agent.77"),
        ("XAUTHORITY", "/home/ann/.Xauthority"),
        ("API_KEY_FILE", "my-keys.pem"),
        ("HOTKEY", "ctrl-alt-7"),
        ("TOKENIZERS_PARALLELISM", "disabled"),
        ("MAX_TOKENS", "1000000"),
        ("AUTH_URL", "https://login.example.org/x"),
        ("USE_AUTH", "true"),
        ("PWD", "work-folder-1"),
        ("HOME", "some-text-1"),
    ],
)
def test_other_variables_are_left_alone(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redact(f"x {value} y") == f"x {value} y"


def test_plain_values_keep_their_form() -> None:
    token = FORMS["GitHub"]
    assert redacted({"a": [token, 1, None, 0.5], "b": {"c": "x"}}) == {
        "a": [f"ghp_{MASK}", 1, None, 0.5],
        "b": {"c": "x"},
    }


def test_a_text_under_a_secret_name_is_masked() -> None:
    plain = {
        "api_key": "${oc.env:API_KEY}",
        "PASSWORD_FILE": "my-passwords.pem",
        "tokens": "1000000",
        "key": 12345678,
    }
    assert redacted(plain) == plain
    assert redacted({"api_key": letters(9), "deep": {"password": letters(12)}}) == {
        "api_key": MASK,
        "deep": {"password": MASK},
    }
    with pytest.raises(ConfigError, match=r"password=\*\*\*: holds"):
        refuse_secret("hydra.launcher.sbatch.password", "hunter-hunter")


def test_no_name_of_ours_is_a_secret_one() -> None:
    ours = {key for kind in (Config, LocalLauncherConfig, SlurmLauncherConfig) for key, _, _ in settings(kind())}
    word = re.compile(r"[\"']((?:hrm_lab|mlflow)\.[\w.]+|(?:train|eval|perf|system)/[\w/]+)")
    ours |= {name for file in (ROOT / "hrm_lab").rglob("*.py") for name in word.findall(file.read_text())}
    assert len(ours) > 100
    assert [name for name in sorted(ours) if is_secret_name(name)] == []


def test_a_secret_in_a_setting_is_refused_and_not_shown() -> None:
    token = FORMS["Hugging Face"]
    for call in (
        lambda: validate(Config(question=f"does it load with {token}?")),
        lambda: check_slurm(SlurmLauncherConfig(setup=["module load cuda", f"export HF_TOKEN={token}"])),
        lambda: check_slurm(SlurmLauncherConfig(sbatch={"comment": f"password={letters(9)}"})),
    ):
        with pytest.raises(ConfigError, match="looks like a secret") as caught:
            call()
        assert MASK in str(caught.value)
        assert token not in str(caught.value)


# ------------------------------------------------------------------------------------------ real processes

VARIABLES = {
    "HF_TOKEN": letters(30),
    "WANDB_API_KEY": letters(40, "0123456789abcdef"),
    "DB_PASSWORD": "correct horse/battery+" + letters(5),
    "MY_SECRETS": letters(20) + "\n" + letters(20),
    "AWS_SECRET_ACCESS_KEY": letters(40),
    "SERVICE_CREDENTIAL": letters(12),
    "SESSION_COOKIE": letters(16),
    "NOTHING_SPECIAL": letters(20),  # no name of a secret: it is not to be written down either
}
ONE_POINT = ("hydra.sweeper.params=null", "seed=1")
# In the clone: a training that fails tells all that it knows, in its own message and in that of the cause.
FAILING = """
if "FAIL_WITH" in os.environ:
    def ensure_dataset(*_):
        try:
            raise ValueError(" ".join(os.environ[name] for name in os.environ["TOLD"].split()))
        except ValueError as error:
            raise OSError(f"cannot reach {os.environ['FAIL_WITH']}") from error
"""


class Planted:
    """A clone with secrets in a file that git does not know and in a change; a run, and a sweep that fails."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone, self.outputs = folder, folder / "clone", folder / "work/outputs"
        self.password = letters(14)
        self.in_code = [letters(24), letters(30)]
        copy_of_the_working_tree(self.clone)
        (self.clone / "new.env").write_text(f"export SOME_PASSWORD={self.in_code[0]}\n")
        (self.clone / ".git/info/exclude").write_text("ignored.env\n")
        (self.clone / "ignored.env").write_text("not to be copied")
        with (self.clone / "hrm_lab/__init__.py").open("a") as file:
            file.write(f'API_KEY = "{self.in_code[1]}"\n')
        with (self.clone / "hrm_lab/run.py").open("a") as file:
            file.write(FAILING)
        (folder / "work").mkdir()
        write_csv(folder / "work/train.csv", 0, 16)
        write_csv(folder / "work/test.csv", 16, 24)
        self.said: list[str] = []

    def hrm_lab(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A verb."""
        return self.python("-m", "hrm_lab.cli", *arguments, **variables)

    def python(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A process with the clone's code and the secrets in its environment."""
        code = os.pathsep.join([str(self.clone), str(self.clone / "launch")])
        inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        done = subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=self.folder / "work",
            env=inherited | {"PYTHONPATH": code} | VARIABLES | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.said += [done.stdout, done.stderr]
        return done

    def forms(self) -> list[bytes]:
        """Every secret, as it may have been written."""
        secrets = [*(part for value in VARIABLES.values() for part in value.split("\n")), self.password, *self.in_code]
        secrets += [FORMS["Hugging Face"], *VARIABLES.values()]
        return [
            form.encode()
            for text in secrets
            for form in (text, quote(text, safe=""), base64.b64encode(text.encode()).decode())
        ]


def test_no_byte_of_a_secret_is_written(tmp_path: Path) -> None:
    lab = Planted(tmp_path)
    question = f"question=my token {FORMS['Hugging Face']}"
    for words in (["cli", "train", *SMALL], ["cli", "sweep", "demo", *SMALL[1:-1], *ONE_POINT], ["hydra_app", *SMALL]):
        refused = lab.python("-m", f"hrm_lab.{words[0]}", *words[1:], question)
        assert refused.returncode == 1
        assert "error: question=my token hf_***: holds what looks like a secret" in refused.stderr
    assert not lab.outputs.exists()

    told = " ".join(name for name in VARIABLES if name != "NOTHING_SPECIAL")
    url = f"postgresql://ann:{lab.password}@host/db"
    sweep = ["sweep", "demo", *SMALL[1:-1], "name=failing", *ONE_POINT]
    with ThreadPoolExecutor() as pool:  # most of their time is the start of a process
        training = pool.submit(lab.hrm_lab, "train", *SMALL, "training.epochs=2")
        failing = pool.submit(lab.hrm_lab, *sweep, FAIL_WITH=url, TOLD=told)
    done, failed = training.result(), failing.result()
    assert done.returncode == 0, done.stderr
    assert "the uncommitted changes hold what looks like a secret" in done.stderr
    assert failed.returncode == 1, failed.stderr

    patches = list(lab.outputs.glob("artifacts/*/artifacts/code/uncommitted.patch"))
    assert len(patches) == 2, failed.stderr
    assert 'API_KEY = "***"' in patches[0].read_text()
    for log in lab.outputs.glob("runs/*/log.txt"):
        assert "ValueError: *** *** ***" in log.read_text() or "done after step" in log.read_text()
    assert list(lab.outputs.glob("sweeps/failing/submitit/*_result.pkl"))
    again = lab.hrm_lab("reproduce", "first")
    assert again.returncode == 2
    assert "held what looked like a secret" in again.stderr
    assert "--current-code" in again.stderr

    # The code itself is copied for SLURM's jobs as it is; what is said about it is not.
    take = "from pathlib import Path; from hrm_lab.sweep.snapshot import take; print(take(Path('../copies')))"
    copy = Path(lab.python("-c", take).stdout.strip())
    assert (copy / "new.env").exists()
    assert not (copy / "ignored.env").exists()
    (tmp_path / "work/source.json").write_bytes((copy / "source.json").read_bytes())

    written = [file for file in (tmp_path / "work").rglob("*") if file.is_file() and not file.is_symlink()]
    assert lab.outputs / "mlflow.db" in written
    for form in lab.forms():
        assert form not in "".join(lab.said).encode()
        assert [file for file in written if form in file.read_bytes()] == [], form
