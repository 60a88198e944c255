"""Notify: people are told what is the matter with the node, and when it is over.

Enters: findings of the node's health, one after the other (``store.Notices.reconcile``), and where people want to
be told, plain values made of the configuration. Leaves: messages, from rows that outlive the process: each
notice has an id that stays the same at every attempt, attempts go on for days, and what a receiver gets twice
after a crash it knows by the id.

One file per kind: ``webhook`` (Standard Webhooks), ``smtp`` (mail). A kind is one frozen class, a
``notifier.Notifier``: its fields are keys of the configuration, ``send`` tells. ``KINDS`` is the only line
elsewhere. Sentences are made above, in ``node.words``; nothing here knows how health is measured.
"""

from __future__ import annotations

from pkgutil import resolve_name

from node.notify.notifier import Notifier

KINDS = {
    "webhook": "node.notify.webhook:Webhook",
    "smtp": "node.notify.smtp:Mail",
}


def kind_of(name: str) -> type[Notifier]:
    found: type[Notifier] = resolve_name(KINDS[name])
    return found
