"""Content credentials, signed here with a key of our own, and nothing is fetched. Takes c2pa-python and openssl."""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from evidence.credentials import credentials
from evidence.line import BROKEN, PRESENT, UNKNOWN
from tests.evidence import made

c2pa = pytest.importorskip("c2pa", reason="c2pa-python (the extra c2pa) is not installed")
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the key")
LEAF = (
    "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=emailProtection\n"
    "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
)
MANIFEST = {
    "claim_generator_info": [{"name": "Test Generator", "version": "1"}],
    "format": "image/jpeg",
    "assertions": [
        {
            "label": "c2pa.actions",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": made.TRAINED}]},
        }
    ],
}


@pytest.fixture(scope="module")
def sign(tmp_path_factory):
    """`sign(remote address or None)`: a JPEG with credentials inside, or with the address of credentials."""
    at = tmp_path_factory.mktemp("keys")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=at, check=True, capture_output=True)

    for name in ("ca", "leaf"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.sec1")
        openssl("pkcs8", "-topk8", "-nocrypt", "-in", f"{name}.sec1", "-out", f"{name}.key")
    (at / "leaf.cnf").write_text(LEAF)
    usage = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    openssl("req", "-x509", "-new", "-key", "ca.key", "-subj", "/O=Test/CN=CA", "-days", "9", "-out", "ca.pem", *usage)
    openssl("req", "-new", "-key", "leaf.key", "-subj", "/O=Test/CN=Test Signer", "-out", "leaf.csr")
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "9",
            "-extfile", "leaf.cnf", "-out", "leaf.pem")  # fmt: skip
    return lambda remote=None: _signed(at, remote)


def _signed(at: Path, remote: str | None) -> bytes:
    chain = (at / "leaf.pem").read_bytes() + (at / "ca.pem").read_bytes()
    info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=(at / "leaf.key").read_bytes(), ta_url=None)
    with c2pa.Builder(MANIFEST) as builder:
        if remote is not None:
            builder.set_remote_url(remote)
            builder.set_no_embed()
        out = io.BytesIO()
        builder.sign(c2pa.Signer.from_info(info), "image/jpeg", io.BytesIO(made.saved(made.picture())), out)
    return out.getvalue()


def test_valid_forged_broken_and_absent(sign):
    data = sign()
    line = credentials(data, "JPEG")
    assert line.found == PRESENT and line.facts["state"] == "Valid" and line.facts["signer"] == "Test Signer"
    assert "made by a trained model" in line.says and "not checked" in line.says
    changed = bytearray(data)
    changed[-300] ^= 255
    line = credentials(bytes(changed), "JPEG")
    assert line.found == PRESENT and line.facts["state"] == "Invalid" and "NOT valid" in line.says
    assert "assertion.dataHash.mismatch" in line.facts["problems"]
    assert credentials(data[:3000], "JPEG").found == BROKEN
    for form in ("JPEG", "PNG", "WEBP"):
        line = credentials(made.saved(made.picture(), form), form)
        assert line.found == UNKNOWN and line.says == "none in the file"
    assert credentials(b"BM", "BMP").found == UNKNOWN


def test_nothing_is_fetched(sign):
    """Without the settings the library does ask: that shows that the server would have noticed."""
    server, asked = socket.create_server(("127.0.0.1", 0)), []

    def listen() -> None:
        while True:
            try:
                with server.accept()[0] as one:
                    asked.append(one.recv(100))
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    data = sign(f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa")
    line = credentials(data, "JPEG")
    assert line.found == UNKNOWN and "elsewhere" in line.says and not asked
    with pytest.raises(c2pa.C2paError):
        c2pa.Reader("image/jpeg", io.BytesIO(data))
    assert asked
    server.close()
