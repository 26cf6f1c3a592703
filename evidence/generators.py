"""Which generator a file's texts name, by fields and forms that programs write; free text of people is not searched."""

from __future__ import annotations

import re
from dataclasses import dataclass

from common.reading import json_of

# names that stand in fields for the program that made a file
NAMES = (
    (r"stable[ _-]?diffusion|automatic1111|\bsd[ -]?webui\b|\bfooocus\b|draw ?things|diffusionbee", "Stable Diffusion"),
    (r"comfy ?ui", "ComfyUI"),
    (r"invoke ?ai", "InvokeAI"),
    (r"novel ?ai", "NovelAI"),
    (r"mid ?journey", "Midjourney"),
    (r"\bdall[^a-z0-9]?e\b|\bopenai\b|chat ?gpt|gpt-4o|gpt-image", "DALL-E or ChatGPT"),
    (r"adobe firefly|\bfirefly\b", "Adobe Firefly"),
    (r"\bimagen\b|google ai|\bgemini\b|google generative", "Google's generators"),
    (r"bing image creator|microsoft designer", "Microsoft Designer"),
    (r"\bflux[.\s]?1|black forest labs", "FLUX"),
    (r"\bleonardo\.?ai|ideogram|\brecraft\b|playground ?ai|nightcafe|craiyon", "an image generator"),
    (r"stylegan|this ?person ?does ?not ?exist|generated photos", "StyleGAN"),
    (r"\bgrok\b|\bxai\b", "Grok"),
    (r"made with ai|ai generated", "an image generator"),
)
PATTERNS = tuple((re.compile(pattern, re.IGNORECASE), name) for pattern, name in NAMES)
NAMED_BY = ("software", "creator_tool", "credit", "system", "make", "model", "artist", "author", "source", "generator")
KEYS = {  # keywords of PNG texts that one program alone writes
    "invokeai_metadata": "InvokeAI", "invokeai_graph": "InvokeAI", "invokeai_workflow": "InvokeAI",
    "sd-metadata": "InvokeAI", "dream": "InvokeAI", "fooocus_scheme": "Stable Diffusion",
    "sui_image_params": "Stable Diffusion", "generation_data": "Stable Diffusion",
}  # fmt: skip
STEPS = re.compile(r"\bSteps: \d+.*?\b(Sampler|CFG scale|Seed): ", re.DOTALL)
JOB = re.compile(r"\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class Tag:
    """program: who it says made the picture. where: the field. text: what stands there."""

    program: str
    where: str
    text: str


def tag_in(where: str, text: str) -> Tag | None:
    """The generator's tag that a field `where` with `text` is, or None."""
    key = where.rpartition(" ")[2].lower()
    if program := _by_form(key, text):
        return Tag(program, where, text)
    if key in NAMED_BY:
        for pattern, name in PATTERNS:
            if pattern.search(text[:1000]):
                return Tag(name, where, text)
    return None


def _by_form(key: str, text: str) -> str | None:
    if key in KEYS and text.lstrip()[:1] in ("{", "[", '"') or (key == "dream" and " -s" in text):
        return KEYS[key]
    if STEPS.search(text[:JSON_BYTES]):
        return "Stable Diffusion"
    if JOB.search(text[:JSON_BYTES]):
        return "Midjourney"
    if text.lstrip()[:1] == "{" and (key in ("prompt", "workflow", "comment", "parameters")):
        return _by_json(key, text)
    return None


def _by_json(key: str, text: str) -> str | None:
    try:
        told = json_of(text[:JSON_BYTES])
    except (ValueError, RecursionError):
        return None
    if key == "prompt" and any(isinstance(node, dict) and "class_type" in node for node in told.values()):
        return "ComfyUI"
    if key == "workflow" and isinstance(told.get("nodes"), list):
        return "ComfyUI"
    if key == "comment" and {"sampler", "steps", "seed"} <= told.keys():
        return "NovelAI"
    return "Stable Diffusion" if key == "parameters" and "sui_image_params" in told else None
