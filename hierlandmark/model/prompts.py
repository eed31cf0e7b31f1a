"""How messages and questions become text for the model. Training and answering use the same words."""

from typing import Any

from hierlandmark.messages import Message

SYSTEM = "Answer from memory."
# a document's text is stored as it is, without a speaker
DOCUMENT_ROLE = "document"


def render(message: Message) -> str:
    """Text of a message as the memory holds it: speaker, day if known, content."""
    if message.role == DOCUMENT_ROLE:
        return f"{message.content}\n\n"
    return f"{speaker(message.role, message.time[:10] if message.time else None)} {message.content}\n\n"


def speaker(role: str, day: str | None) -> str:
    """What stands before a message's content: who says it, and the day if known."""
    return f"{role} ({day}):" if day else f"{role}:"


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Token ids of user text; what looks like a special token in it is only text."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def ask_prompt(tokenizer: Any, question: str) -> list[int]:
    """The prompt that asks a question: the model's chat template where it has one, else plain text."""
    if getattr(tokenizer, "chat_template", None):
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\0"}]
        # the question is tokenised apart, so that it cannot close its own turn
        before, after = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True).split("\0")
        marks = [list(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before, after)]
        return marks[0] + tokenize(tokenizer, question) + marks[1]
    return tokenize(tokenizer, question_text(question))


def question_text(question: str) -> str:
    """The prompt of a model without a chat template."""
    return f"Question: {question}\nAnswer:"


def search_prompt(tokenizer: Any, query: str) -> list[int]:
    """The prompt whose last token looks for a passage: training asks for passages in the same words."""
    return tokenize(tokenizer, search_text(query))


def search_text(query: str) -> str:
    """`search_prompt` before it is tokenised."""
    return f'Search: {query}\nFound: "'
