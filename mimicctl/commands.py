# SPDX-License-Identifier: GPL-2.0-only
"""What each command does: a request in, calls on a Client, words out."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mimicctl import table
from mimicctl.arguments import Request
from mimicctl.client import Event
from mimicctl.foreground import ForegroundRun
from mimicctl.link_wait import wait_until_up
from mimicctl.opening import AnyClient, open_client
from mimicctl.output import Output, person_is_there
from mimicctl.stopping import Stopped, StopSignals
from mimicd.core.config_text import parse_config_text
from mimicd.core.errors import (
    BusError,
    FailedError,
    InvalidConfigError,
    MimicError,
    NotRunningError,
    Problem,
)
from mimicd.core.settings import build_config, merge_texts, notes_on
from mimicd.core.terminal import check_table, log_line
from mimicd.core.values import LEVELS, parse_verbosity

CONFIG_FOLDER = Path("/etc/mimic")

Texts = dict[str, str | list[str]]


class Commands:
    """Does one request."""

    def __init__(
        self,
        request: Request,
        output: Output,
        stops: StopSignals,
        config_folder: Path = CONFIG_FOLDER,
    ) -> None:
        self._request = request
        self._output = output
        self._stops = stops
        self._config_folder = config_folder

    async def perform(self) -> None:
        """Do what was asked for. Raises MimicError, or Stopped when a signal cut it short."""
        request = self._request
        match request.command:
            case "run":
                await self._run()
            case "show":
                await self._with_client(self._show)
            case "stop":
                await self._with_client(lambda client: client.stop(request.interface))
            case "list":
                await self._with_client(self._list)
            case "reload":
                await self._with_client(self._reload)
            case "check":
                await self._check()
            case "log":
                level = request.level
                # refused here as well as there, before anybody is asked for a password
                parse_verbosity(level, 0)
                await self._with_client(
                    lambda client: client.set_log_level(request.interface, level)
                )
            case "monitor":
                await self._monitor_until_stopped()

    async def _open(self) -> AnyClient:
        return await open_client(self._request, os.environ, person_is_there())

    async def _with_client(self, work: Callable[[AnyClient], Awaitable[None]]) -> None:
        async def do() -> None:
            client = await self._open()
            try:
                await work(client)
            finally:
                client.close()

        await self._stops.race(do())

    async def _run(self) -> None:
        request = self._request
        texts = self._texts(request.interface, request.file)
        build_config(texts)
        if "check" in request.switches:
            self._output.data(f"{table.printable(request.interface)}: the settings are good\n")
            return
        if "wait" in request.switches:
            await self._stops.race(wait_until_up(request.interface))
        if "detach" in request.switches:
            await self._with_client(lambda client: self._run_detached(client, texts))
        else:
            run = ForegroundRun(self._open, request.interface, texts, self._output)
            await run.until_stopped(self._stops)

    async def _run_detached(self, client: AnyClient, texts: Texts) -> None:
        interface = self._request.interface
        await client.run(interface, texts, bind=False)
        for view in await client.interfaces():
            if view["name"] == interface:
                self._output.data(_running_line(view))
                return
        raise FailedError(f"{interface} was stopped at once", "see the log of mimicd")

    async def _show(self, client: AnyClient) -> None:
        request = self._request
        facts = await client.describe()
        views, connections = facts["interfaces"], facts["connections"]
        if request.interface:
            views = [view for view in views if view["name"] == request.interface]
            connections = [one for one in connections if one["interface"] == request.interface]
            if not views:
                raise NotRunningError(
                    f"{request.interface} is not running", "mimicctl list shows what is"
                )
        both = not request.switches & {"connections", "process"}
        with_process = both or "process" in request.switches
        with_connections = both or "connections" in request.switches
        if "json" in request.switches:
            shown: dict[str, Any] = {"version": facts["version"], "pid": facts["pid"]}
            if with_process:
                shown["interfaces"] = views
            if with_connections:
                shown["connections"] = connections
            self._output.json(shown)
            return
        parts = []
        for view in views:
            own = [one for one in connections if one["interface"] == view["name"]]
            if with_process:
                colour = self._output.colour
                parts.append(
                    table.interface_facts(view, facts["version"], facts["pid"], time.time(), colour)
                )
            if with_connections:
                parts.append(self._connections(view, own))
        self._output.data("\n".join(parts))

    def _connections(self, view: dict[str, Any], connections: list[dict[str, Any]]) -> str:
        if not connections:
            return table.no_connection(view)
        columns = self._output.columns
        parts = [
            table.connection_summary(view["name"], connections)
            + table.connection_list(connections, columns, self._output.colour)
        ]
        if notes := table.notes(connections, columns):
            parts.append("".join(f"{note}\n" for note in notes))
        return "\n".join(parts)

    async def _list(self, client: AnyClient) -> None:
        views = await client.interfaces()
        if "json" in self._request.switches:
            self._output.json(views)
        elif views:
            self._output.data(table.interface_table(views, time.time()))

    async def _reload(self, client: AnyClient) -> None:
        request = self._request
        if request.texts or request.file is not None:
            if not request.interface:
                raise InvalidConfigError(
                    "these settings are for no interface", "name one after the options"
                )
            await self._reload_one(client, request.interface, request.file)
        elif request.interface:
            file = str(self._config_file(request.interface))
            await self._reload_one(client, request.interface, file)
        else:
            await self._reload_all(client)

    async def _reload_one(self, client: AnyClient, interface: str, file: str | None) -> None:
        await client.reload(interface, self._checked_texts(interface, file))

    def _checked_texts(self, interface: str, file: str | None) -> Texts:
        texts = self._texts(interface, file)
        build_config(texts)
        return texts

    async def _check(self) -> None:
        self._check_settings()
        if not self._request.interface:
            return
        try:
            await self._with_client(self._check_interface)
        except BusError as error:
            name = table.printable(self._request.interface)
            self._output.talk(f"only the settings were checked: {error}")
            self._output.talk(f"`mimicd check {name}`, as root, needs no daemon")

    async def _check_interface(self, client: AnyClient) -> None:
        request = self._request
        texts = {key: text for key, text in self._texts_to_check().items() if key != "file"}
        if "probe" in request.switches:
            texts["probe"] = "true"
        lines = await client.check(request.interface, texts)
        if "json" in request.switches:
            keys = ("check", "result", "words")
            self._output.json([dict(zip(keys, line, strict=True)) for line in lines])
        else:
            self._output.data(check_table(lines, self._output.colour))
        failed = sum(grade == "fail" for _, grade, _ in lines)
        if failed:
            raise FailedError(
                f"{request.interface}: {failed} of {len(lines)} checks failed",
                "each line says what to do",
            )

    def _texts_to_check(self) -> Texts:
        (file,) = self._files_to_check() or [None]
        from_file = _read_config(file) if file is not None else {}
        return merge_texts(from_file, self._request.texts)

    def _check_settings(self) -> None:
        problems: list[Problem] = []
        for file in self._files_to_check():
            try:
                self._check_one(file)
            except InvalidConfigError as exc:
                problems += exc.problems
        if problems:
            raise InvalidConfigError.of(problems)

    def _files_to_check(self) -> list[str | None]:
        request = self._request
        if request.texts or request.file is not None:
            return [request.file]
        if request.interface:
            file = self._config_file(request.interface)
            return [str(file)] if file.exists() else []
        files = sorted(self._config_folder.glob("*.conf"))
        if not files:
            raise InvalidConfigError(
                f"there is no file *.conf in {self._config_folder} to check", "name one with -F"
            )
        return [str(file) for file in files]

    def _check_one(self, file: str | None) -> None:
        """Raises InvalidConfigError."""
        what = table.printable(file or self._request.interface or "the command line")
        texts = self._texts(self._request.interface, file)
        try:
            config = build_config(texts)
        except InvalidConfigError as exc:
            # What has a place was refused before; this is about the whole.
            raise InvalidConfigError(f"{what}: {exc}", exc.hint) from None
        words = f"{what}: the settings are good"
        if config.filters:
            words += f", {table.counted(len(config.filters), 'filter')}"
        if config.wireguard:
            words += f", and those of WireGuard on {', '.join(config.wireguard)}"
        if "json" in self._request.switches:
            self._output.talk(words)
        else:
            self._output.data(f"{words}\n")

    async def _reload_all(self, client: AnyClient) -> None:
        """What is wrong with one file, or one interface, does not hold up the others."""
        failed: MimicError | None = None
        for view in await client.interfaces():
            config_file = self._config_file(view["name"])
            if not config_file.exists():
                continue
            try:
                await self._reload_one(client, view["name"], str(config_file))
            except MimicError as error:
                if failed is not None:
                    self._output.error(failed)
                failed = error
        if failed is not None:
            raise failed

    async def _monitor_until_stopped(self) -> None:
        try:
            await self._with_client(self._monitor)
        except Stopped:
            return

    async def _monitor(self, client: AnyClient) -> None:
        await client.follow(self._request.interface)
        await client.ping()
        self._output.talk("watching mimicd, Ctrl-C ends it")
        while True:
            event = await client.next_event()
            match event.kind:
                case "bus-left":
                    raise FailedError("the bus is gone", "start mimicctl monitor again")
                case "daemon-left":
                    self._output.talk("mimicd has left the bus")
                case "daemon-back":
                    self._output.talk("mimicd is on the bus")
                case _ if "json" in self._request.switches:
                    self._output.json_line(_plain_event(event))
                case _:
                    self._output.data(f"{time.strftime('%H:%M:%S')} {self._event_line(event)}\n")

    def _event_line(self, event: Event) -> str:
        name = table.printable(event.interface)
        match event.kind:
            case "log":
                return log_line(event.interface, event.level, event.text, self._output.colour)
            case "connection":
                one = event.connection
                ends = f"{one['local']} -> {one['remote']}: {one['state']}"
                return f"{name}: {table.printable(ends)}"
            case "interface-added":
                return f"{name}: running"
            case "interface-renamed":
                return f"{name}: is called {table.printable(event.text)} now"
            case _:
                return f"{name}: stopped"

    def _config_file(self, interface: str) -> Path:
        if "/" in interface:
            raise InvalidConfigError(f"{interface!r} is not the name of an interface")
        return self._config_folder / f"{interface}.conf"

    def _texts(self, interface: str, file: str | None) -> Texts:
        """The settings of the file, if any, and of the command line."""
        from_file = _read_config(file) if file is not None else {}
        for note in (*notes_on(from_file), *notes_on(self._request.texts)):
            self._output.talk(note)
        return merge_texts(from_file, self._request.texts)


def _read_config(file: str) -> dict[str, Any]:
    try:
        text = Path(file).read_text("utf-8")
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text in UTF-8"
        raise InvalidConfigError(f"{file} cannot be read: {reason}") from exc
    return parse_config_text(text, file)


def _running_line(view: dict[str, Any]) -> str:
    filters = table.counted(len(view["filters"]), "filter")
    words = f"{view['name']}: running, link {view['link-type']}, XDP {view['xdp-mode']}, {filters}"
    return table.printable(words) + "\n"


def _plain_event(event: Event) -> dict[str, Any]:
    plain: dict[str, Any] = {"event": event.kind, "interface": event.interface}
    if event.kind == "log":
        plain |= {"level": LEVELS[min(event.level, len(LEVELS) - 1)], "text": event.text}
    elif event.kind == "connection":
        plain["connection"] = event.connection
    elif event.kind == "interface-renamed":
        plain["name"] = event.text
    return plain


async def perform(request: Request, output: Output, stops: StopSignals) -> None:
    await Commands(request, output, stops).perform()
