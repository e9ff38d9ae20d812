# SPDX-License-Identifier: GPL-2.0-only
"""Every setting, once: file key, command-line flags, bus option, default, help.

Whoever needs a list of settings walks SETTINGS. Texts come as a mapping from key to text, or to
a sequence of texts; `build_config` turns them into an InterfaceConfig, `config_texts` back.
A command line appends to a key's list the argument of each of its flags, or the flag's `text`.
Bad texts raise one InvalidConfigError that tells all faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from mimicd.core import values
from mimicd.core.errors import InvalidConfigError, Located, Problem, quote
from mimicd.core.filter_conflicts import conflicts
from mimicd.core.filter_text import EXAMPLE, split_filter
from mimicd.core.model import (
    PADDING_MAX,
    TIMER_MAX,
    Filter,
    FlowSettings,
    InterfaceConfig,
    Origin,
)
from mimicd.core.setting import Flag, Setting

T = TypeVar("T")
Texts = Mapping[str, str | Sequence[str]]

_DEFAULT = InterfaceConfig()
_DEFAULT_FLOW = _DEFAULT.flow


def parse_filter(text: str, flow: FlowSettings = _DEFAULT_FLOW) -> Filter:
    """Read one filter; settings it leaves out fall back to `flow`, also number by number."""
    parts = split_filter(text)
    problems = list(parts.problems)
    seen: set[str] = set()
    own = flow
    for key, value in parts.settings:
        row = BY_KEY.get(key.text)
        if row is None or not row.per_filter:
            problems.append(_foreign_key(key.text, key.offset))
        elif key.text in seen:
            problems.append(
                Problem(f"{key.text} is given twice in one filter", "keep one", key.offset)
            )
        else:
            seen.add(key.text)
            try:
                own = replace(own, **{row.field: row.read(value.text, getattr(flow, row.field))})
            except InvalidConfigError as exc:
                problems.extend(problem.moved(value.offset) for problem in exc.problems)
    if parts.filter is None or problems:
        raise InvalidConfigError.of(sorted(problems, key=lambda problem: problem.offset))
    return replace(parts.filter, settings=own)


def _foreign_key(key: str, offset: int) -> Problem:
    known = [row.key for row in SETTINGS if row.per_filter]
    return Problem(
        f"a filter has no setting {quote(key)}, expected {', '.join(known[:-1])} or {known[-1]}",
        f"give {key} outside the filter" if key in BY_KEY else values.suggestion(key, known),
        offset,
    )


def format_filter(found: Filter, flow: FlowSettings = _DEFAULT_FLOW) -> str:
    """The text of a filter with those settings that differ from `flow`.

    A filter that came from a host name keeps the name.
    """
    end = replace(found, address=None) if found.host else found
    return ",".join([end.text(), *_own_texts(found.settings, flow)])


def show_filter(found: Filter, flow: FlowSettings = _DEFAULT_FLOW) -> str:
    """A filter as `show` has it: with its address, those settings that differ from `flow`, and
    behind that the name that led to the address."""
    text = ",".join([found.text(), *_own_texts(found.settings, flow)])
    return f"{text} ({found.host})" if found.host else text


def _own_texts(own: FlowSettings, flow: FlowSettings) -> Iterator[str]:
    for row in SETTINGS:
        if row.per_filter and getattr(own, row.field) != getattr(flow, row.field):
            yield f"{row.key}={row.format(getattr(own, row.field))}"


LINK_TYPES = ("auto", "eth", "none")
XDP_MODES = ("auto", "skb", "native", "none")

SETTINGS: tuple[Setting[Any], ...] = (
    Setting(
        key="filter",
        parse=lambda text, fallback: parse_filter(text),
        format=format_filter,
        default=None,
        flags=(Flag("-f", "--filter", "disguise the flows of this local or remote end"),),
        metavar="FILTER",
        help="Which flows are disguised: local or remote, =, an IP address (IPv6 in brackets),"
        " network (198.51.100.0/24) or host name, a colon and a port, range of ports (6000-6100)"
        " or any, then any settings of its own after commas. May be given more than once; the"
        " most specific one wins: first the longest prefix, then the fewest ports, then local.",
        signature="as",
        field="filters",
        choices=tuple(f"{origin.value}=" for origin in Origin),
    ),
    Setting(
        key="log.verbosity",
        parse=values.parse_verbosity,
        format=values.format_verbosity,
        default=_DEFAULT.verbosity,
        flags=(
            Flag("-q", "--quiet", "print less, may be repeated", values.LESS),
            Flag("-v", "--verbose", "print more, may be repeated", values.MORE),
        ),
        metavar="LEVEL",
        help="How much is logged: error, warn, info, debug or trace, or its number from 0 to 4.",
        field="verbosity",
        choices=values.LEVELS,
    ),
    Setting(
        key="link_type",
        parse=values.choice_of(*LINK_TYPES),
        format=str,
        default=_DEFAULT.link_type,
        flags=(Flag("-L", "--link-type", "what packets begin with: auto, eth or none"),),
        metavar="TYPE",
        help="What a packet of the interface begins with: eth for an Ethernet header, none for"
        " the IP header (PPP, TUN), auto to ask the kernel.",
        field="link_type",
        choices=LINK_TYPES,
    ),
    Setting(
        key="xdp_mode",
        parse=values.choice_of(*XDP_MODES),
        format=str,
        default=_DEFAULT.xdp_mode,
        flags=(Flag("-x", "--xdp-mode", "how XDP is attached: auto, skb, native or none"),),
        metavar="MODE",
        help="How the receiving side is attached: native in the driver, skb behind it, none for"
        " no XDP but TC ingress, auto for native where the driver can.",
        field="xdp_mode",
        choices=XDP_MODES,
    ),
    Setting(
        key="use_libxdp",
        parse=values.parse_boolean,
        format=values.format_boolean,
        default=False,
        flags=(Flag("-X", "--use-libxdp", "accepted, has no effect", "true"),),
        metavar="BOOL",
        help="Accepted so that existing files work; it has no effect.",
        note="has no effect, XDP programs are always attached without libxdp",
    ),
    Setting(
        key="handshake",
        parse=values.parse_handshake,
        format=values.format_handshake,
        default=_DEFAULT_FLOW.handshake,
        flags=(Flag("-h", "--handshake", "how often a connection is tried"),),
        metavar="INTERVAL:RETRY",
        help="Seconds between attempts to connect (0: wait for the peer to connect), and how"
        f" many attempts follow the first. Each from 0 to {TIMER_MAX}; a number may be left out.",
        per_filter=True,
        field="handshake",
    ),
    Setting(
        key="keepalive",
        parse=values.parse_keepalive,
        format=values.format_keepalive,
        default=_DEFAULT_FLOW.keepalive,
        flags=(Flag("-k", "--keepalive", "when an idle connection is probed and given up"),),
        metavar="TIME:INTERVAL:RETRY:STALE",
        help="Seconds without a word from the peer before it is probed (0: never), seconds"
        " between probes (0: reset instead of probing), probes after the first, and seconds"
        " without data before the connection is forgotten (0: never)."
        f" Each from 0 to {TIMER_MAX}; a number may be left out.",
        per_filter=True,
        field="keepalive",
    ),
    Setting(
        key="padding",
        parse=values.parse_padding,
        format=values.format_padding,
        default=_DEFAULT_FLOW.padding,
        flags=(Flag("-p", "--padding", "bytes added to each packet, or random"),),
        metavar="BYTES",
        help=f"Bytes added to each packet, from 0 to {PADDING_MAX}, or random. Both ends need"
        " the same.",
        per_filter=True,
        field="padding",
        choices=("random",),
    ),
    Setting(
        key="max_window",
        parse=values.parse_boolean,
        format=values.format_boolean,
        default=_DEFAULT_FLOW.max_window,
        flags=(Flag("-W", "--max-window", "always announce the largest TCP window", "true"),),
        metavar="BOOL",
        help="Whether every segment announces the largest TCP window: true or false.",
        per_filter=True,
        field="max_window",
    ),
    Setting(
        key="strict",
        parse=values.parse_strict,
        format=values.format_strict,
        default=_DEFAULT_FLOW.strict,
        flags=(Flag("", "--strict", "drop plain UDP of the flow: true, false or always"),),
        metavar="WHEN",
        help="Whether UDP of the flow that is not disguised is dropped, on the way in and out, and"
        " not passed: false; true, from the first attempt to run the interface until it is stopped,"
        " whatever becomes of mimicd meanwhile; or always, after it was stopped too, until"
        " `mimicd guard --off`.",
        per_filter=True,
        field="strict",
        choices=("true", "false", "always"),
    ),
    Setting(
        key="wireguard",
        parse=values.parse_interface,
        format=str,
        default=None,
        flags=(Flag("", "--wireguard", "disguise the packets of this WireGuard interface"),),
        metavar="NAME",
        help="A WireGuard interface whose packets are disguised: filters are made from its port and"
        " the endpoints of its peers, and follow them. May be given more than once.",
        signature="as",
        field="wireguard",
    ),
    Setting(
        key="set_mtu",
        parse=values.parse_boolean,
        format=values.format_boolean,
        default=_DEFAULT.set_mtu,
        flags=(Flag("", "--set-mtu", "lower the MTU of that interface to what fits", "true"),),
        metavar="BOOL",
        help="Whether the MTU of each WireGuard interface is lowered to what fits, and put back"
        " when it stops: true or false.",
        field="set_mtu",
    ),
    Setting(
        key="file",
        parse=lambda text, fallback: text,
        format=str,
        default="",
        flags=(Flag("-F", "--file", "read settings from a file"),),
        metavar="PATH",
        help="A file of settings; those on the command line win over its own and filters add up.",
        signature="",
    ),
)

BY_KEY: dict[str, Setting[Any]] = {row.key: row for row in SETTINGS if row.signature}
"""The rows that are file keys and bus options."""


def unknown_key(key: str) -> Problem:
    """The fault of a key that is not in the table."""
    near = values.suggestion(key, BY_KEY)
    return Problem(f"unknown key {quote(key)}", near or f"known keys: {', '.join(BY_KEY)}")


def build_config(texts: Texts) -> InterfaceConfig:
    """What an interface is run with. Raises InvalidConfigError, also when there is no filter."""
    config, problems = _read_all(texts)
    if problems:
        raise InvalidConfigError.of(problems)
    if not config.filters and not config.wireguard:
        raise InvalidConfigError("no filter given", f"give at least one, for example {EXAMPLE}")
    return config


def check_texts(texts: Texts) -> list[Problem]:
    """Every fault in `texts`; having no filter is none."""
    return _read_all(texts)[1]


def merge_texts(file_texts: Texts, command_texts: Texts) -> dict[str, str | list[str]]:
    """The texts of a file and of a command line as one: the command line's filters and tunnels
    come after the file's, its other settings win, number by number.

    Each side may have several texts for any key, as given; a later one wins. The result has one
    text per key and a list for those that may be given more than once. Raises InvalidConfigError.
    """
    both = {
        key: given
        for key in [*file_texts, *command_texts]
        if (given := [*_texts_of(file_texts, key), *_texts_of(command_texts, key)])
    }
    problems = check_texts(both)
    if problems:
        raise InvalidConfigError.of(problems)
    return {
        key: given if BY_KEY[key].repeatable else BY_KEY[key].format(_fold(BY_KEY[key], given)[0])
        for key, given in both.items()
    }


def config_texts(config: InterfaceConfig) -> dict[str, str | list[str]]:
    """The inverse of `build_config`: every key's text; a host name stands for its addresses."""
    texts: dict[str, str | list[str]] = {
        "filter": list(dict.fromkeys(format_filter(f, config.flow) for f in config.filters))
    }
    if config.wireguard:
        texts["wireguard"] = list(config.wireguard)
    for row in BY_KEY.values():
        if row.field and not row.repeatable:
            owner = config.flow if row.per_filter else config
            texts[row.key] = row.format(getattr(owner, row.field))
    return texts


def shown_texts(config: InterfaceConfig) -> dict[str, str]:
    """Every setting but the filters, each as one text."""
    return {
        key: text if isinstance(text, str) else ", ".join(text)
        for key, text in config_texts(config).items()
        if key != "filter"
    }


def notes_on(texts: Texts) -> list[str]:
    """What is accepted but should be said: settings without effect, keys repeated in a file."""
    notes = []
    for row in BY_KEY.values():
        given = _texts_of(texts, row.key)
        if row.note and _fold(row, given)[0] != row.default:
            notes.append(_at(given[-1], f"{row.key} {row.note}"))
        if not row.repeatable:
            in_file = [text for text in given if isinstance(text, Located)]
            notes += [_at(text, f"{row.key} is given again, this one wins") for text in in_file[1:]]
    return notes + [
        _at(text, f"filter {quote(text)} takes all UDP and all TCP there, also DNS and SSH")
        for text in _texts_of(texts, "filter")
        if isinstance(text, str) and _is_any_port(text)
    ]


def _is_any_port(text: str) -> bool:
    try:
        return parse_filter(text).is_any_port
    except InvalidConfigError:
        return False


def _at(text: object, words: str) -> str:
    return str(Problem(words).located(text))


def _read_all(texts: Texts) -> tuple[InterfaceConfig, list[Problem]]:
    """The configuration as far as it can be read, and every fault."""
    problems = [unknown_key(key) for key in texts if key not in BY_KEY]
    flow = _DEFAULT_FLOW
    config = _DEFAULT
    for row in BY_KEY.values():
        if row.repeatable:
            continue
        value, faults = _fold(row, _texts_of(texts, row.key))
        problems += faults
        if row.per_filter:
            flow = replace(flow, **{row.field: value})
        elif row.field:
            config = replace(config, **{row.field: value})
    filters, faults = _read_filters(_texts_of(texts, "filter"), flow)
    problems += faults
    tunnels = []
    for text in _texts_of(texts, "wireguard"):
        name, faults = _fold(BY_KEY["wireguard"], [text])
        tunnels += [] if faults else [name]
        problems += faults
    wireguard = tuple(dict.fromkeys(tunnels))
    return replace(config, filters=filters, wireguard=wireguard, flow=flow), problems


def _fold(row: Setting[T], given: Iterable[object]) -> tuple[T, list[Problem]]:
    """The value after all texts in turn, each falling back to the one before."""
    value = row.default
    problems: list[Problem] = []
    for text in given:
        if not isinstance(text, str):
            problems.append(_not_a_text(row.key, text))
            continue
        try:
            value = row.read(text, value)
        except InvalidConfigError as exc:
            problems += [problem.located(text) for problem in exc.problems]
    return value, problems


def _read_filters(
    given: Iterable[object], flow: FlowSettings
) -> tuple[tuple[Filter, ...], list[Problem]]:
    """The filters that can be read, and every fault, conflicts among them."""
    filters: list[Filter] = []
    sources: list[str] = []
    problems: list[Problem] = []
    for text in given:
        if not isinstance(text, str):
            problems.append(_not_a_text("filter", text))
            continue
        try:
            filters.append(parse_filter(text, flow))
            sources.append(text)
        except InvalidConfigError as exc:
            words = f"filter {quote(text)}: "
            problems += [
                replace(problem, message=words + problem.message).located(text)
                for problem in exc.problems
            ]
    for index, earlier in conflicts(filters):
        problems.append(_conflict(sources[index], sources[earlier], filters[index]))
    return tuple(filters), problems


def _conflict(text: str, earlier: str, found: Filter) -> Problem:
    place = f" in line {earlier.line}" if isinstance(earlier, Located) else ""
    other = f"{quote(earlier)}{place}"
    if found.port == found.last_port:
        words = f"filter {quote(text)} has the same address and port as {other}"
        return Problem(words, "keep one of them").located(text)
    return Problem(
        f"filter {quote(text)} and {other} have the same address and share some ports",
        "of two ranges of one address, one must lie inside the other: that one wins there",
    ).located(text)


def _not_a_text(key: str, given: object) -> Problem:
    return Problem(f"{key} needs a text, not {quote(repr(given))}")


def _texts_of(texts: Texts, key: str) -> Sequence[Any]:
    """The texts given for a key; whoever is on the bus may have sent something else."""
    given = texts.get(key, ())
    return given if isinstance(given, list | tuple) else (given,)
