"""Chat templates of every kind: prompt and text stand in the prompt as they are, or one line says why not and
what to do.
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import asdict

import pytest

from grace_core.chat_templates import DATE, parse_arguments
from grace_core.errors import GraceError
from grace_core.model import GraceModel, Settings
from grace_core.prompt import REPRESENTATION_PROMPT, PromptBuilder
from grace_core.serving.chat import conversation
from grace_core.serving.schemas import Message

OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def each(content: str = "{{ m.content }}", *, only: str = "", opening: str = OPEN) -> str:
    """A template that shows every message as ``content`` does, of those for which ``only`` holds."""
    turn = f"{{{{ '<|im_start|>' + m.role + '\n' }}}}{content}{{{{ '<|im_end|>\n' }}}}"
    return f"{{% for m in messages {only} %}}{turn}{{% endfor %}}{opening}"


REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('there is no system role') }}{% endif %}" + each()
)
DROPS_SYSTEM = each(only="if m.role != 'system'")
PARTS = each("{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}")
DATED = "{{ 'Today is ' + strftime_now('%A, %d %B %Y, %H:%M') + '. ' }}" + each()
THINKS = each(
    opening=OPEN + "{% if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}"
)
UNOPENED = each(opening="")


@pytest.fixture(scope="module")
def built(new_tokenizer):
    """A PromptBuilder of a template: ``built(template, system, **options)``."""
    tokenizer = new_tokenizer(None)

    def build(source, *args, **options) -> PromptBuilder:
        own = copy(tokenizer)
        own.chat_template = source
        return PromptBuilder(own, *args, **options)

    return build


def pooled(builder: PromptBuilder, text: str) -> str:
    prompt = builder.build(text)
    return builder.tokenizer.decode(prompt.ids[prompt.start : prompt.stop])


def whole(builder: PromptBuilder, text: str) -> str:
    return builder.tokenizer.decode(builder.build(text).ids)


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, DROPS_SYSTEM], ids=["refused", "dropped"])
def test_a_prompt_that_finds_no_system_role_stands_in_front_of_the_text(built, template):
    builder = built(template)
    assert builder.place == builder.described["place"] == "user"
    text = "the river rises"
    assert (
        whole(builder, text)
        == f"<|im_start|>user\n{REPRESENTATION_PROMPT}\n\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert pooled(builder, text).strip() == text
    assert (
        builder.tokenizer.decode(builder.build(text).ids[builder.build(text).stop :])
        == "<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "system",
    [
        "{{ m.content | upper }}",
        "{{ m.content | e }}",
        "{{ m.content[:9] }}",
        "{{ m.content + m.content }}",
        "{{ m.content | tojson }}",
    ],
)
def test_a_prompt_that_a_system_message_would_change_stands_in_front_of_the_text(built, system):
    prompt = 'Read "this" & that.'
    builder = built(each(f"{{% if m.role == 'system' %}}{system}{{% else %}}{{{{ m.content }}}}{{% endif %}}"), prompt)
    assert builder.place == "user"
    assert builder.head.endswith(f"<|im_start|>user\n{prompt}\n\n")


def test_a_prompt_that_would_stand_behind_the_text_and_be_pooled_stands_in_front_of_it(built):
    behind = "{{ '<|im_start|>user\n' + messages[-1].content + ' ' + messages[0].content + '<|im_end|>\n' }}"
    plain = "{{ '<|im_start|>user\n' + messages[0].content + '<|im_end|>\n' }}"
    builder = built(f"{{% if messages | length > 1 %}}{behind}{{% else %}}{plain}{{% endif %}}{OPEN}")
    assert builder.place == "user"
    assert REPRESENTATION_PROMPT not in builder.tail


def test_a_prompt_joined_to_the_user_s_turn_by_the_template_is_its_system_message(built):
    joined = "{% if loop.first %}{% elif loop.index == 2 %}{{ messages[0].content + '\n' + m.content }}{% else %}{{ m.content }}{% endif %}"
    builder = built("{% for m in messages %}" + joined + "{% endfor %}" + OPEN)
    assert builder.place == "system"
    assert builder.head == REPRESENTATION_PROMPT + "\n"


def test_no_prompt_stands_nowhere(built):
    assert built(REFUSES_SYSTEM, "").place == "none"
    assert built(each(), "").head == "<|im_start|>user\n"


def test_white_space_around_a_prompt_may_be_trimmed(built):
    assert (
        built(each("{{ m.content | trim }}"), " Read. ").head
        == "<|im_start|>system\nRead.<|im_end|>\n<|im_start|>user\n"
    )


@pytest.mark.parametrize(
    "content",
    [
        "m.content | upper",
        "m.content | lower",
        "m.content | title",
        "m.content | capitalize",
        "m.content | e",
        "m.content | tojson",
        "m.content | truncate(2000)",
        "m.content[:5000]",
        "m.content.split('\n')[0]",
        "m.content.split() | join(' ')",
        "m.content | replace('\u00a0', ' ')",
        "m.content | replace('\"', '')",
        "m.content | replace('{', '(')",
        "m.content | striptags",
        "m.content | urlize",
        "m.content | wordwrap(100)",
        "m.content | indent(2)",
        "m.content.strip('.!')",
        "m.content.splitlines() | join('\n')",
        "m.content | urlencode",
        "m.content | list",
        "m.content.encode('ascii', 'ignore').decode()",
    ],
)
def test_a_template_that_alters_the_text_is_refused_with_what_it_makes_of_it(built, content):
    message = r"(alters|shows) the user's text.* comes out as .*; put a chat_template.jinja beside"
    with pytest.raises(GraceError, match=message) as raised:
        built(each(f"{{{{ {content} }}}}"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "times"),
    [("{{ m.content }} {{ m.content }}", 2), ("{{ m.content[:8] }}", 0), ("{{ m.content | length }}", 0)],
)
def test_a_template_that_does_not_show_the_text_once_is_refused(built, content, times):
    with pytest.raises(
        GraceError, match=f"shows the user's text {times} times, expected once.*; put a chat_template.jinja"
    ):
        built(each(content))


def test_a_template_that_shows_the_beginning_of_a_text_beside_it_is_refused(built):
    with pytest.raises(GraceError, match="alters"):
        built(each("{{ m.content[:5] + ': ' + m.content }}"))


def test_a_template_that_takes_messages_in_parts_gets_parts(built):
    builder, plain = built(PARTS), built(each())
    assert builder.described["content"] == "parts"
    assert plain.described["content"] == "text"
    assert builder.build("one text") == plain.build("one text")


def test_a_template_with_parts_and_without_system_role_gets_both(built):
    builder = built("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + PARTS)
    assert (builder.place, builder.described["content"]) == ("user", "parts")


def test_a_template_is_told_the_same_date_on_every_day(built, monkeypatch):
    import transformers.utils.chat_template_utils as utils

    class Tomorrow(utils.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 7, 8)

    today = built(DATED)
    monkeypatch.setattr(utils, "datetime", Tomorrow)
    assert built(DATED).build("words") == today.build("words")
    assert today.head.startswith("Today is Wednesday, 01 January 2025, 00:00. ")
    assert today.described["date"] == DATE
    assert built(DATED, date="2024-02-29").head.startswith("Today is Thursday, 29 February 2024")
    assert built(each()).described["date"] is None


def test_a_date_may_be_given_as_the_template_s_own_argument(built):
    template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}"
        + each()
    )
    assert built(template).head.startswith("01 Jan 2025<|im_start|>")
    given = built(template, template={"date_string": "26 Jul 2024"})
    assert given.head.startswith("26 Jul 2024<|im_start|>")
    assert given.described["date"] is None


def test_a_template_that_draws_lots_is_refused(built):
    with pytest.raises(GraceError, match="renders the same messages differently each time"):
        built("{{ range(100000) | random }}" + each())


def test_arguments_reach_the_template(built):
    assert built(THINKS).tail == "<|im_end|>\n<|im_start|>assistant\n"
    assert built(THINKS, template={"enable_thinking": False}).tail.endswith("assistant\n<think></think>")
    assert built(THINKS, template={"enable_thinking": True}).build("words") == built(THINKS).build("words")


def test_an_argument_that_the_template_never_reads_is_refused(built):
    with pytest.raises(GraceError, match="never reads the argument 'enable_thinkin'; check its spelling"):
        built(THINKS, template={"enable_thinkin": False})


def test_one_of_several_templates_can_be_chosen(built):
    named = {"plain": each(), "thinks": THINKS}
    with pytest.raises(GraceError, match="has no chat template 'default'; choose one of plain, thinks"):
        built(named)
    with pytest.raises(GraceError, match="a value of type list, expected a text, or several by their names"):
        built([named])
    assert built(named, template={"chat_template": "plain"}).build("words") == built(each()).build("words")
    assert built(named, template={"chat_template": "thinks", "enable_thinking": False}).tail.endswith("<think></think>")


def test_a_turn_that_the_template_does_not_open_is_opened_as_in_front_of_an_answer(built):
    builder = built(UNOPENED)
    assert builder.described["opening"] == "<|im_start|>assistant\n"
    assert builder.build("words") == built(each()).build("words")
    assert built(each()).described["opening"] is None


def test_what_stands_at_the_very_end_of_a_conversation_does_not_stand_before_an_answer(built):
    assert built(UNOPENED + "{{ '<|endoftext|>' }}").build("words") == built(each()).build("words")


def test_a_turn_that_needs_no_opening_gets_none(built):
    inst = (
        "{% for m in messages %}{{ m.content if m.role == 'assistant' else '[A] ' + m.content + ' [/A] ' }}{% endfor %}"
    )
    builder = built(inst)
    assert (builder.tail, builder.described["opening"]) == (" [/A] ", None)


@pytest.mark.parametrize("only", ["if m.role != 'assistant'", "if loop.length < 3"])
def test_a_template_that_never_shows_how_an_answer_begins_is_refused(built, only):
    template = (
        each(only="if m.role != 'assistant'", opening="")
        if "role" in only
        else each(
            "{{ m.content if m.role != 'assistant' else (messages[-2].content + m.content) | length }}", opening=""
        )
    )
    with pytest.raises(GraceError, match=r"opens no turn for the answer.*if add_generation_prompt is set"):
        built(template)


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{% for m in messages %}\n{{ m.content }}{% if %}", r"cannot be read \(line 2\): Expected an expression"),
        (
            "{% for m in messages %}\n\n{{ m.content | shiny }}{% endfor %}",
            r"cannot be read \(line 3\): No filter named 'shiny'",
        ),
        (
            "\n{{ messages[0].content + nothing.at.all }}",
            r"does not accept a user message \(line 2\): 'nothing' is undefined",
        ),
        ("{{ raise_exception('never\nagain') }}", r"does not accept a user message.*: never;"),
    ],
)
def test_a_broken_template_is_named_with_its_line(built, template, line):
    with pytest.raises(GraceError, match=line + r".*put a chat_template.jinja beside its tokenizer files") as raised:
        built(template)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "template",
    [DATED, PARTS, REFUSES_SYSTEM, UNOPENED, THINKS],
    ids=["dated", "parts", "refuses", "unopened", "thinks"],
)
def test_a_conversation_is_rendered_as_prompts_are(new_model, template):
    model = new_model("qwen2")
    model.tokenizer.chat_template = template
    built_model = GraceModel(model.model, model.tokenizer, Settings(system="Read."), name="tiny")
    messages = [Message(role="system", content="Read."), Message(role="user", content="words")]
    assert conversation(built_model, messages).ids == built_model.prompts.build("words").ids


def test_prompts_of_another_template_argument_are_others_also_in_the_cache(new_model, tmp_path):
    from grace_core.cache import RepresentationCache

    model = new_model("qwen2", max_new_tokens=4)
    model.tokenizer.chat_template = THINKS
    cache = RepresentationCache(tmp_path / "cache.sqlite")
    cached_model = GraceModel(model.model, model.tokenizer, model.settings, name="tiny", cache=cache)
    plain = cached_model.represent(["words"])
    closed = cached_model.represent(["words"], template={"enable_thinking": False})
    assert closed.counts[0, 1] > plain.counts[0, 1]
    assert (cached_model.represent(["words"]).sums == plain.sums).all()


def test_settings_keep_arguments_and_date(tmp_path, new_model):
    given = {"enable_thinking": False}
    settings = Settings(template=given, date="2024-02-29")
    given["enable_thinking"] = True
    assert settings.template == {"enable_thinking": False}
    assert Settings(**json.loads(json.dumps(asdict(settings)))) == settings
    assert len({settings, Settings(template={}, date="2024-02-29"), Settings()}) == 3
    assert Settings(system="old", seed=3) == Settings(system="old", seed=3, template={}, date=DATE)

    model = new_model("qwen2")
    model.tokenizer.chat_template = THINKS
    GraceModel(model.model, model.tokenizer, settings, name="tiny").save_pretrained(tmp_path / "kept")
    again = GraceModel.from_pretrained(tmp_path / "kept", device="cpu")
    assert again.settings == settings
    assert again.prompts.tail.endswith("<think></think>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("enable_thinking", "template must be a dict of the chat template's arguments, got str"),
        ({"a": object()}, "must hold JSON values only"),
        ({"a": float("nan")}, "must hold JSON values only"),
        ({"a": (1, 2)}, "a tuple"),
        ({"a": {1: 2}}, "a key that is no str"),
        ({3: 1}, "arguments have names, got 3"),
        ({"two words": 1}, "arguments have names"),
        ({"add_generation_prompt": False}, "no argument of a chat template that can be chosen"),
        ({"messages": []}, "leave it out"),
    ],
)
def test_arguments_that_cannot_be_kept_are_refused(template, message):
    with pytest.raises(GraceError, match=message):
        Settings(template=template)


@pytest.mark.parametrize("day", ["today", "2025-13-01", "", 20250101, None])
def test_a_date_that_is_none_is_refused(day):
    with pytest.raises(GraceError, match="date must be a day as YYYY-MM-DD"):
        Settings(date=day)


def test_arguments_on_the_command_line_are_json_or_text():
    assert parse_arguments(None) is None
    pairs = ["enable_thinking=false", "budget=3", "date_string=26 Jul 2024", 'tools=[{"a": 1}]', "empty="]
    expected = {"enable_thinking": False, "budget": 3, "date_string": "26 Jul 2024", "tools": [{"a": 1}], "empty": ""}
    assert parse_arguments(pairs) == expected
    with pytest.raises(GraceError, match="expected key=value"):
        parse_arguments(["enable_thinking"])


def test_commands_take_arguments_and_an_index_keeps_them(grace, new_model, sentences, tmp_path):
    model = new_model("qwen2", max_new_tokens=4)
    model.tokenizer.chat_template = THINKS
    model.save_pretrained(tmp_path / "thinks")
    (tmp_path / "corpus.txt").write_text("\n".join(sentences[:4]))
    argument = ("--template", "enable_thinking=false")
    status, _, err = grace(
        "index",
        "build",
        tmp_path / "corpus.txt",
        "--out",
        tmp_path / "made",
        "--model",
        tmp_path / "thinks",
        *argument,
        "--device",
        "cpu",
    )
    assert status == 0, err
    manifest = json.loads((tmp_path / "made" / "thinks" / "manifest.json").read_text())
    assert manifest["settings"]["template"] == {"enable_thinking": False}
    assert manifest["settings"]["date"] == DATE
    encode = (
        "encode",
        tmp_path / "corpus.txt",
        "--model",
        tmp_path / "thinks",
        "--out",
        tmp_path / "made.parquet",
        "--device",
        "cpu",
    )
    assert grace(*encode, *argument)[0] == 0
    assert "never reads the argument 'enabled'" in grace(*encode, "--template", "enabled=1")[2]
    status, _, err = grace("serve", "--model", tmp_path / "thinks", "--collection", tmp_path / "made", *argument)
    assert (status, "leave out --template" in err) == (2, True)
