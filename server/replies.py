"""Reads replies that hold numbers and nothing else; nothing about one is trusted."""

from flwr.app import Message, MetricRecord

from mediclip.protocol import METRICS, error_word


def numbers_of(reply: Message) -> tuple[MetricRecord, str]:
    """Read the numbers of a site's reply.

    Args:
        reply: As it came.

    Returns:
        The numbers by name, not yet checked, and an empty word; or none, and why: ``site-<code>`` for an
        error that the site names, ``records`` where the reply holds anything else.
    """
    if reply.has_error():
        return MetricRecord(), f"site-{error_word(reply.error.code)}"
    numbers = reply.content.get(METRICS)
    if set(reply.content) != {METRICS} or not isinstance(numbers, MetricRecord):
        return MetricRecord(), "records"
    return numbers, ""
