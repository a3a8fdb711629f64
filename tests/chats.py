"""Small chats, and chat templates that are not in an installed package, for tests."""

import copy

from alignment.records.text import Conversation, Function, Message, PreferencePair, ToolCall

MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('After the optional system message, roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""No generation prompt: a reply follows the question directly. No system turns."""
YI = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '<|im_start|>user\n' + message['content'] + '<|im_end|>\n<|im_start|>assistant\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
"""The question itself opens the reply."""
MIXTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ ' [INST] ' + (first if loop.first and first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""The system turn begins the first question."""
PHI4 = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
PHI4_MINI = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
"""An end of text follows the last turn, after its stop token."""
DATED = (
    "{{ '<|im_start|>system\nToday is ' + strftime_now('%d %B %Y') + '.<|im_end|>\n' }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML that says today's date."""


def talk(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    """user, assistant, user, ... with an optional system turn before them."""
    roles = ("user", "assistant")
    turns = tuple(Message(role=roles[at % 2], content=text) for at, text in enumerate(contents))
    return turns if system is None else (Message(role="system", content=system), *turns)


CHATS = (
    talk("Hi", "Hello."),
    talk("What is 17 + 4?", "21", "And 21 + 4?", "25", "Thanks", "You are welcome.\n\nBye"),
    talk("Say\n\n- a\n- b", "- a\n- b", system="Be brief."),
    talk("assistant", "assistant\nassistant", "user\n", "x"),
    talk("Größe? 你好 🙂", "1,80 m\n  你好"),
)


def conversation(messages) -> Conversation:
    """A conversation of these turns."""
    return Conversation.of(messages, task_type="chat", source="test")


def pair(prompt, chosen="yes, the answer is yes", rejected="no") -> PreferencePair:
    """A pair with single replies."""
    return PreferencePair.of(
        prompt,
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        task_type="chat",
        source="test",
        strength=0.5,
    )


def tool_chat() -> Conversation:
    """A call, its result and an answer; the tools are on a system turn without text."""
    call = ToolCall(function=Function(name="weather", arguments={"city": "Bern"}))
    tools = ({"type": "function", "function": {"name": "weather", "parameters": {}}},)
    messages = (
        Message(role="system", content="", tools=tools),
        Message(role="user", content="Weather?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="clear"),
        Message(role="assistant", content="It is clear."),
    )
    return Conversation.of(messages, task_type="tools", source="test")


def with_template(tokenizer, template):
    """A copy of a tokenizer with another template: its text, or the name of one that TRL has."""
    from trl import chat_template_utils

    other = copy.copy(tokenizer)
    other.chat_template = getattr(chat_template_utils, f"{template}_chat_template", template)
    return other
