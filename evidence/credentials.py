"""C2PA content credentials: read and validated by c2pa-python where it is installed, without ever reaching the network.

A manifest that lies elsewhere is not fetched, certificates are not asked about online, and no list of trusted signers
comes along: a valid signature says that the file is as it was signed, by whoever holds that certificate.
"""

from __future__ import annotations

import io

from common.extras import lacking
from common.reading import json_of
from evidence.line import BROKEN, PRESENT, UNKNOWN, Line, shown
from evidence.xmp import source_type

KIND = "content credentials"
TYPES = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif", "HEIF": "image/heif",
         "TIFF": "image/tiff", "GIF": "image/gif"}  # fmt: skip
# nothing of the library may go out: no manifest from elsewhere, no question about a certificate, and no host at all
OFFLINE = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "core": {"allowed_network_hosts": [], "max_decompressed_manifest_size_in_mb": 32},
}
PROVES = "a valid signature: the file is unchanged since it was signed"
CAN_NOT = (
    "that the signer tells the truth; without them, nothing: most programs and web sites write none or remove them"
)


def credentials(data: bytes, form: str) -> Line:
    """The line on a file's content credentials. form: as Pillow calls the format."""
    if form not in TYPES:
        return _line(UNKNOWN, f"{form or 'this format'}: credentials are not looked for in it")
    try:
        import c2pa
    except ImportError:
        return _line(UNKNOWN, lacking("nobody looked: this needs c2pa-python", "c2pa"))
    try:
        with c2pa.Context.from_dict(OFFLINE) as context:
            with c2pa.Reader(TYPES[form], io.BytesIO(data), context=context) as reader:
                return _told(json_of(reader.json()))
    except c2pa.C2paError as error:
        text = str(error)
        if "ManifestNotFound" in type(error).__name__ or text.startswith("ManifestNotFound"):
            return _line(UNKNOWN, "none in the file")
        if text.startswith("Remote"):
            return _line(
                UNKNOWN, "the file says that its credentials lie elsewhere; this program fetches nothing", remote=True
            )
        return _line(BROKEN, f"can't be read ({shown(text)})")


def _told(store: dict) -> Line:
    state = store.get("validation_state") or "unknown"
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signed = manifest.get("signature_info", {})
    by = shown(str(signed.get("common_name") or signed.get("issuer") or "somebody unnamed"), 80)
    programs = [shown(str(one.get("name", "")), 80) for one in manifest.get("claim_generator_info", [])]
    codes = sorted({shown(str(one.get("code")), 60) for one in store.get("validation_status") or []})
    sources = list(_sources(manifest))
    words = {
        "Trusted": f"valid and trusted, signed by {by}",
        "Valid": f"valid, signed by {by} (who that is, was not checked against a list of trusted signers)",
    }.get(state, f"NOT valid ({', '.join(codes) or state}): changed after signing, or never signed rightly")
    if programs:
        words += f"; written by {programs[0]}"
    if sources:
        words += "; source: " + ", ".join(f"{text} ({code})" for code, _, text in sources)
    facts = {"state": state, "signer": by, "programs": programs, "problems": codes, "sources": [s[0] for s in sources]}
    return _line(PRESENT, words, **facts)


def _sources(manifest: dict):
    """The digital source types that the manifest's actions name, each once."""
    found = {}
    for assertion in manifest.get("assertions", []):
        actions = assertion.get("data", {})
        for action in actions.get("actions", []) if isinstance(actions, dict) else []:
            if isinstance(action, dict) and isinstance(kind := action.get("digitalSourceType"), str):
                code, sort, text = source_type(kind)
                found[code] = (shown(code, 60), sort, text)
    return found.values()


def _line(found: str, says: str, **facts: object) -> Line:
    return Line(KIND, found, says, PROVES, CAN_NOT, dict(facts))
