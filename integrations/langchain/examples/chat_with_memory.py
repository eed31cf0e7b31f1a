"""A chat that remembers: each question is answered from what was said before, and both are added to the memory.

    python examples/chat_with_memory.py --db chat.db "Where is the spare key?"

Needs `hierlandmark[smollm2]` and its default model. To answer with any other LangChain chat model, pass it to
`chat_chain`.
"""

import argparse
from collections.abc import Sequence

from langchain_core.documents import Document
from langchain_core.language_models import LanguageModelLike
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_hierlandmark import HierLandmarkChatMessageHistory, HierLandmarkRetriever

from hierlandmark import Memory

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Answer from these earlier messages:\n{context}"), ("human", "{question}")]
)
SAID_BEFORE: list[BaseMessage] = [
    HumanMessage("I moved to Porto in March, to a flat on Rua das Flores."),
    AIMessage("How lovely! Have you found your way around yet?"),
    HumanMessage("Slowly. The spare key is under the blue flower pot, should you ever need it."),
    AIMessage("Noted: the spare key is under the blue flower pot."),
    HumanMessage("My sister Inês visits in June. She is allergic to walnuts."),
    AIMessage("I will keep walnuts out of every recipe for June."),
]


def as_lines(documents: Sequence[Document]) -> str:
    """Found messages as lines of a prompt."""
    return "\n".join(f"{one.metadata['role']}: {one.page_content}" for one in documents)


def chat_chain(memory: Memory, model: LanguageModelLike, k: int = 3) -> Runnable[str, str]:
    """A question in; the best `k` messages put before `model`; its answer out."""
    found = HierLandmarkRetriever(memory=memory, k=k) | as_lines
    return {"context": found, "question": RunnablePassthrough()} | PROMPT | model | StrOutputParser()


def main(argv: Sequence[str] | None = None) -> None:
    """Answer one question from a memory, and remember both."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("question")
    parser.add_argument("--db", default="chat.db")
    parser.add_argument("--namespace", default="chat")
    arguments = parser.parse_args(argv)
    with Memory.open(arguments.db, arguments.namespace) as memory:
        history = HierLandmarkChatMessageHistory(memory)
        if not history.messages:
            history.add_messages(SAID_BEFORE)
        print("Found:")
        print(as_lines(HierLandmarkRetriever(memory=memory, k=3).invoke(arguments.question)))
        # the memory's own model reads the keys and values it stored; no text is put before it
        answer = memory.ask(arguments.question, max_new_tokens=48).text
        print("Answer:", answer)
        history.add_messages([HumanMessage(arguments.question), AIMessage(answer)])


if __name__ == "__main__":
    main()
