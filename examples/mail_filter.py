"""Filter incoming mail: an mbox comes in, each message gets a verdict in its header, and "not spam" is feedback.

    python examples/mail_filter.py                                   a week of generated mail, and a user who corrects
    python examples/mail_filter.py --mbox inbox.mbox --to sorted.mbox --home mail.home
    python examples/mail_filter.py --home mail.home --correct ID --label ham

A message is predicted when it arrives. Its copy carries `X-Spam-Status: Yes, score=0.97` and `X-Everlearn-Id`. When the
user moves a message, send its id and the right label, days later if need be. Mail that stays in its place counts as
judged rightly after `--window` days: silence is a label, too.
"""

from __future__ import annotations

import argparse
import email.utils
import mailbox
import random
import tempfile
from collections.abc import Iterator
from email.header import decode_header
from email.message import EmailMessage, Message
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import everlearn as el

SCHEMA = {
    "label": "label",
    "task": "binary",
    "classes": ["ham", "spam"],
    "fields": {"subject": "text", "body": "text", "sender": "categorical", "links": "numeric", "html": "boolean"},
}
LONGEST = 20_000  # characters of a body that are read


class Words(HTMLParser):
    """Collects the text of a page, and counts its links."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.links = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += tag == "a"

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def text_of(raw: bytes, charset: str | None) -> str:
    """Return bytes as text; what an unknown or wrong charset leaves unreadable is replaced."""
    try:
        return raw.decode(charset or "utf-8", "replace")
    except LookupError:
        return raw.decode("latin-1")


def header(message: Message, name: str) -> str:
    """Return a header as text."""
    parts = decode_header(str(message.get(name, "")))
    return "".join(part if isinstance(part, str) else text_of(part, charset) for part, charset in parts)


def features(message: Message) -> dict[str, Any]:
    """Return what the model sees of a message; parts that cannot be decoded are left out."""
    texts, links, is_html = [], 0, False
    for part in message.walk():
        if part.get_content_maintype() != "text" or part.get_filename():
            continue
        raw = part.get_payload(decode=True) or b""
        text = text_of(raw, part.get_content_charset())[:LONGEST]
        if part.get_content_subtype() == "html":
            words = Words()
            words.feed(text)
            text, links, is_html = " ".join(words.parts), links + words.links, True
        links += text.count("http://") + text.count("https://")
        texts.append(text)
    _, address = email.utils.parseaddr(str(message.get("From", "")))
    return {
        "subject": header(message, "Subject"),
        "body": " ".join(texts),
        "sender": address.rpartition("@")[2].lower(),
        "links": links,
        "html": is_html,
    }


def deliver(loop: el.Loop, message: Message) -> Message:
    """Predict a message, and write the verdict into its header."""
    answer = loop.predict(features(message))
    for name in ("X-Spam-Status", "X-Everlearn-Id"):  # a spammer may have written them
        del message[name]
    verdict = "Yes" if answer.value == "spam" else "No"
    message["X-Spam-Status"] = f"{verdict}, score={answer.proba[1]:.2f}"
    message["X-Everlearn-Id"] = answer.id
    return message


def settings(days: float) -> dict[str, Any]:
    """Return the settings of a filter: a false alarm costs ten missed messages; silence means ham after some days."""
    return {
        "schema": SCHEMA,
        "model": {"family": "linear"},
        "decision": {"costs": {"ham": {"spam": 10.0}, "spam": {"ham": 1.0}}},
        "feedback": {"window": days * 86_400, "default": "ham"} if days else {},
    }


# ---- a week of mail ------------------------------------------------------------------------------------------------

COMMON = [f"word{number}" for number in range(300)]
SPAM = [["prize", "winner", "free", "urgent"], ["crypto", "invoice", "parcel", "refund"]]  # before and after a change


def generated(count: int, seed: int = 1) -> Iterator[tuple[EmailMessage, str]]:
    """Yield messages with their true labels; the spammers change their words half-way."""
    draw = random.Random(seed)
    for number in range(count):
        label = "spam" if draw.random() < 0.4 else "ham"
        bad, share = SPAM[number >= count // 2], 0.2 if label == "spam" else 0.01
        words = [draw.choice(bad) if draw.random() < share else draw.choice(COMMON) for _ in range(30)]
        message = EmailMessage()
        message["From"] = f"Someone <someone@host{draw.randrange(40)}.example>"
        message["Subject"] = " ".join(words[:4])
        message.set_content(" ".join(words[4:]))
        if label == "spam" and draw.random() < 0.5:
            message.add_alternative(f"<p>{' '.join(words)} <a href='http://x.example'>here</a></p>", subtype="html")
        yield message, label


def simulate(loop: el.Loop, count: int, late: int) -> None:
    """Deliver generated mail; the user corrects wrong verdicts `late` messages later, and confirms some right ones."""
    draw, waiting, wrong = random.Random(2), list[tuple[str, str]](), list[tuple[int, str]]()
    for number, (message, label) in enumerate(generated(count)):
        sent = deliver(loop, message)
        said = "spam" if str(sent["X-Spam-Status"]).startswith("Yes") else "ham"
        wrong += [(number, label)] if said != label else []
        waiting.append((str(sent["X-Everlearn-Id"]), label) if said != label or draw.random() < 0.2 else ("", ""))
        if number >= late and waiting[number - late][0]:
            loop.feedback(waiting[number - late][0], label=waiting[number - late][1])
    for name, part in (("first quarter", range(count // 4)), ("last quarter", range(count - count // 4, count))):
        missed = sum(number in part and label == "spam" for number, label in wrong)
        alarms = sum(number in part and label == "ham" for number, label in wrong)
        print(f"{name}: {missed} of {len(part)} messages were missed spam, {alarms} were false alarms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbox", type=Path, help="incoming mail; without it, mail is generated")
    parser.add_argument("--to", type=Path, help="where the messages go with their verdicts")
    parser.add_argument("--home", type=Path, help="where the filter keeps what it learned")
    parser.add_argument("--correct", default="", metavar="ID", help="the X-Everlearn-Id of a message that was moved")
    parser.add_argument("--label", choices=["ham", "spam"], help="what that message is")
    parser.add_argument("--window", type=float, default=7.0, help="days after which an unmoved message counts as ham")
    parser.add_argument("--messages", type=int, default=2000, help="of generated mail")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        real = given.mbox is not None or given.correct
        home = given.home or Path(folder) / "mail.home"
        with el.open(settings(given.window if real else 0.0), home=home) as loop:
            if given.correct:
                loop.feedback(given.correct, label=given.label)
            elif given.mbox is not None:
                sort(loop, given.mbox, given.to or given.mbox.with_suffix(".sorted.mbox"))
            else:
                simulate(loop, given.messages, late=25)


def sort(loop: el.Loop, source: Path, target: Path) -> None:
    """Deliver each message of an mbox to another one."""
    incoming, sorted_mail, spam = mailbox.mbox(source, create=False), mailbox.mbox(target), 0
    try:
        for message in incoming:
            delivered = deliver(loop, message)
            sorted_mail.add(delivered)
            spam += str(delivered["X-Spam-Status"]).startswith("Yes")
        sorted_mail.flush()
    finally:
        sorted_mail.close()
        incoming.close()
    print(f"{spam} of the messages in {source} are spam; all are in {target} with their verdicts")


if __name__ == "__main__":
    main()
