"""Whether a call is allowed, which policy decides, and what shadow policies would change."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from legation.cli.output import printable
from legation.policy import (
    AuthorizationPolicy,
    Decision,
    PathAction,
    PathVerdict,
    PolicyMatcher,
    Request,
    normalise_path,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May `source` call `target`? Method and path are None for a plain TCP connection."""

    source: str
    target: str
    method: str | None
    path: str | None
    port: int


def explain(question: Question, policies: Sequence[AuthorizationPolicy]) -> dict[str, Any]:
    """Return the verdict as JSON values; the path is judged as the proxy normalises it."""
    verdict = None if question.path is None else normalise_path(question.path)
    rejected = verdict is not None and verdict.action is PathAction.REJECT
    decision = None if rejected else _decide(question, verdict, policies)
    answer: dict[str, Any] = {
        "allowed": False,
        "policy": None,
        "rule": None,
        "shadow_allowed": False,
        "shadow_policy": None,
        "path": None,
        "redirected": verdict is not None and verdict.action is PathAction.REDIRECT,
        "rejected": rejected,
        "policies_of_target": sorted(p.name for p in policies if p.applies_to(question.target)),
    }
    if decision is not None:
        answer |= {
            "allowed": decision.allowed,
            "policy": decision.policy,
            "rule": decision.rule,
            "shadow_allowed": decision.shadow_allowed,
            "shadow_policy": decision.shadow_policy,
            "path": verdict.path if verdict else None,
        }
    return answer


def _decide(
    question: Question, verdict: PathVerdict | None, policies: Sequence[AuthorizationPolicy]
) -> Decision:
    return PolicyMatcher(policies).decide(
        Request(
            source=question.source,
            target=question.target,
            method=question.method,
            path=verdict.path if verdict else None,
            port=question.port,
        )
    )


def tell(answer: dict[str, Any], question: Question) -> None:
    """Say it to a person."""
    word = (
        click.style("allowed", fg="green") if answer["allowed"] else click.style("denied", fg="red")
    )
    click.echo(f"{word} {_reason(answer)}")
    if answer["redirected"]:
        click.echo(f"the proxy redirects to {printable(answer['path'])} first; this is its verdict")
    if answer["shadow_allowed"] != answer["allowed"]:
        would = "allow" if answer["shadow_allowed"] else "deny"
        click.echo(f"in shadow, {answer['shadow_policy'] or 'the default'} would {would} it")
    click.echo(f"caller   {question.source}")
    click.echo(f"target   {question.target}")
    click.echo(f"policies of the target: {', '.join(answer['policies_of_target']) or 'none'}")


def _reason(answer: dict[str, Any]) -> str:
    if answer["rejected"]:
        return "because no proxy accepts such a path (400)"
    if answer["policy"] is None:
        return "because no policy allows it"
    return f"by policy {answer['policy']}, rule {answer['rule']}"
