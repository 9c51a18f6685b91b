# Copyright (c) 2026, NHI contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What requests of each form become in the provider's dialect, field by field."""

from __future__ import annotations

import json

import pytest
from nhi_services.router.adapted import UntranslatableError
from nhi_services.router.api_errors import ApiError
from nhi_services.router.asks import CHAT, MESSAGES, RESPONSES
from nhi_services.router.config import ProviderConfig
from nhi_services.router.forms import adapt

from .test_dialects import ANTHROPIC, BODIES, HELLO, MODEL, OPENAI, ask, relayed
from .told import Part, chat_stream, chat_whole, parts_of


def test_a_request_of_the_anthropic_form_is_said_as_a_chat() -> None:
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    body = {
        "system": [
            {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Two."},
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Look."}, png]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "x"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "toolu_1",
                        "is_error": True,
                        "content": [{"type": "text", "text": "dark"}, png],
                    },
                ],
            },
        ],
        "max_tokens": 4000,
        "temperature": 0.5,
        "top_k": 5,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "tools": [{"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    look = {"name": "look", "arguments": '{"at": 1}'}
    assert adapt(ask(MESSAGES, body, stream=True), OPENAI, MODEL).body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 1000,
        "temperature": 0.5,
        "stop": ["END"],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}},
            }
        ],
        "messages": [
            {"role": "system", "content": "One.\n\nTwo."},
            {"role": "user", "content": [{"type": "text", "text": "Look."}, image]},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [{"id": "toolu_1", "type": "function", "function": look}],
            },
            {"role": "tool", "tool_call_id": "toolu_1", "content": "[error] dark"},
            {"role": "user", "content": [image]},
        ],
    }


def test_a_request_in_anthropics_own_dialect_stays_as_it_is_but_for_its_bounds() -> None:
    body = {
        "messages": HELLO,
        "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
        "max_tokens": 32000,
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "tools": [{"type": "web_search_20250305"}],
        "new_field": {"kept": True},
    }
    model = MODEL.model_copy(update={"max_output": 8192})
    sent = adapt(ask(MESSAGES, body), ANTHROPIC, model).body
    assert sent == {
        **body,
        "model": "m",
        "stream": False,
        "max_tokens": 8192,
        "thinking": {"type": "enabled", "budget_tokens": 4096},
    }
    assert "thinking" not in adapt(ask(MESSAGES, body), ANTHROPIC, MODEL).body, "no room for it"


def test_a_chat_is_said_in_anthropics_words() -> None:
    body = {
        "messages": [
            {"role": "system", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": f"call|{at}", "type": "function", "function": {"name": "look", "arguments": ""}}
                    for at in (1, 2)
                ],
            },
            {"role": "tool", "tool_call_id": "call|1", "content": "dark"},
            {"role": "tool", "tool_call_id": "call|2", "content": "light"},
        ],
        "temperature": 1.7,
        "stop": "END",
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "user": "me",
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
    }
    assert adapt(ask(CHAT, body), ANTHROPIC, MODEL).body == {
        "model": "m",
        "max_tokens": 1000,
        "stream": False,
        "temperature": 1,
        "stop_sequences": ["END"],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "tools": [{"name": "look", "input_schema": {"type": "object"}}],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "system": [{"type": "text", "text": "Be kind."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                ],
            },
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": f"call_{at}", "name": "look", "input": {}} for at in (1, 2)],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "call_1", "content": "dark"},
                    {"type": "tool_result", "tool_use_id": "call_2", "content": "light"},
                ],
            },
        ],
    }


CODEX: Part = {
    "instructions": "You code.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules."}]},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Fix it."},
                {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c1", "name": "shell", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** Begin"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [
                {"type": "input_text", "text": "out"},
                {"type": "input_image", "image_url": "https://x/y.png"},
            ],
        },
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"},
    ],
    "tools": [
        {"type": "function", "name": "shell", "parameters": {"type": "object"}, "strict": False},
        {
            "type": "custom",
            "name": "apply_patch",
            "description": "Patch.",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
        },
        {"type": "namespace", "name": "files", "description": "", "tools": [{"type": "function", "name": "read"}]},
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "reasoning": {"effort": "high"},
    "text": {"verbosity": "low"},
    "max_output_tokens": 50,
    "prompt_cache_key": "k",
}


def test_a_request_of_codex_is_said_as_a_chat() -> None:
    adapted = adapt(ask(RESPONSES, CODEX), OPENAI.model_copy(update={"output_limit": "max_completion_tokens"}), MODEL)
    sent = dict(adapted.body)
    assert [tool["function"]["name"] for tool in sent.pop("tools")] == ["shell", "apply_patch", "files__read"]
    assert sent == {
        "model": "m",
        "stream": False,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "max_completion_tokens": 50,
        "messages": [
            {"role": "system", "content": "You code."},
            {"role": "system", "content": "Rules."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Fix it."},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": "{}"}},
                    {
                        "id": "c2",
                        "type": "function",
                        "function": {"name": "apply_patch", "arguments": '{"input": "*** Begin"}'},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "out"},
            {"role": "tool", "tool_call_id": "c2", "content": "done"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
        ],
    }
    assert adapted.left_out == ("the tool web_search",)


@pytest.mark.parametrize("stream", [False, True])
def test_tools_of_codex_come_back_under_their_own_names(stream: bool) -> None:
    said = [("call", "c1", "apply_patch", {"input": "*** Begin\n"}), ("call", "c2", "files__read", {"path": "a"})]
    adapted = adapt(ask(RESPONSES, CODEX, stream=stream), OPENAI, MODEL)
    if stream:
        parts = parts_of(relayed(adapted, b"".join(chat_stream(said, 4)), []))
        assert [p["delta"] for p in parts if p["type"] == "response.custom_tool_call_input.delta"] == ["*** Begin\n"]
        patch, read = parts[-1]["response"]["output"]
    else:
        patch, read = json.loads(adapted.whole(b"", chat_whole(said)))["output"]
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", "*** Begin\n")
    assert (read["type"], read["name"], read["namespace"]) == ("function_call", "read", "files")


@pytest.mark.parametrize(
    ("form", "provider", "more", "what"),
    [
        (MESSAGES, OPENAI, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        (
            MESSAGES,
            OPENAI,
            {"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]},
            "container_upload",
        ),
        (MESSAGES, OPENAI, {"messages": [{"role": "user"}]}, "content"),
        (MESSAGES, OPENAI, {"messages": [{"role": "user", "content": [3]}]}, "wrong type"),
        (CHAT, ANTHROPIC, {"n": 2}, "more than one answer"),
        (CHAT, ANTHROPIC, {"messages": [{"role": "system", "content": "x"}]}, "nobody"),
        (CHAT, ANTHROPIC, {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio"),
        (RESPONSES, OPENAI, {"input": [{"type": "item_reference", "id": "x"}]}, "item_reference"),
        (
            RESPONSES,
            OPENAI,
            {"tool_choice": {"type": "file_search"}, "tools": [{"type": "function", "name": "f"}]},
            "file_search",
        ),
        (RESPONSES, OPENAI, {"tools": [{"name": "f"}]}, "type"),
    ],
)
def test_what_there_are_no_words_for_is_named(form: str, provider: ProviderConfig, more: Part, what: str) -> None:
    with pytest.raises(UntranslatableError, match=what):
        adapt(ask(form, {**BODIES[form], **more}), provider, MODEL)


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "prompt", "background"])
def test_what_needs_a_memory_is_refused_with_what_to_do_instead(name: str) -> None:
    with pytest.raises(ApiError, match=f"'{name}' is not possible.*: send"):
        ask(RESPONSES, {"input": "x", name: "resp_1"})
