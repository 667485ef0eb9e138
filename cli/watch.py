"""``tomoscribe watch``: a folder is watched, and what lands in it is labelled and shown."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import shlex
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomoscribe.cli.failure import INTERRUPTED
from tomoscribe.cli.segment import Axes, Mode0
from tomoscribe.cli.stop_signals import StopSignals

if TYPE_CHECKING:
    from tomoscribe.engine import Bundle, Segmenter
    from tomoscribe.engine.watch.page.server import PageServer
    from tomoscribe.engine.watch.settings import WatchSettings

__all__ = ["EPILOG", "watch"]

EPILOG = (
    "New and changed reconstructions are labelled, the newest first, as soon as they are complete; one that cannot be "
    "is reported, and tried again when it changes. Outputs are those of segment, in the same sub-folders. Ctrl-C or "
    "SIGTERM stops it; what was begun is done again by the next one, and so is what a crash or a power cut ended. The "
    "ledger, the log and the page's pictures lie in DIR/.tomoscribe. Several watchers on one machine share a folder."
)

_PAGE, _OVERRIDES = "The page", "Where the headers are wrong"


def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder, with its sub-folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the outputs.")],
    model: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Folder of the model.", show_default="the model that came along"),
    ] = None,
    pattern: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="What to label, quoted, such as '*_Vol.mrc' or 'reconstruction/*'; may be given several times.",
            show_default="what AreTomo3, Warp and IMOD call reconstructions, and other names but halves and stacks",
        ),
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Classes to keep.", show_default="all")
    ] = None,
    sample_only: Annotated[
        bool, typer.Option("--sample-only", help="Leave out the slices above and below the sample.")
    ] = False,
    invert: Annotated[bool, typer.Option("--invert", help="The density is bright on dark.")] = False,
    no_rescale: Annotated[
        bool,
        typer.Option("--no-rescale", help="Take slices as they are, whatever voxel size the model was trained on."),
    ] = False,
    on_done: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Run this for every finished tomogram; TOMOSCRIBE_LABELS and other variables say which.",
        ),
    ] = None,
    keep_free: Annotated[
        float, typer.Option(metavar="GB", min=0, help="Wait while less than this would stay free on the disk.")
    ] = 2.0,
    polling: Annotated[
        bool,
        typer.Option(
            "--polling", help="Look for changes instead of being told of them; network file systems have it by default."
        ),
    ] = False,
    backend: Annotated[str, typer.Option(metavar="NAME", help="What runs the model, as segment has it.")] = "auto",
    precision: Annotated[str, typer.Option(metavar="NAME", help="What it is computed in, as segment has it.")] = "auto",
    device: Annotated[str, typer.Option(metavar="WHERE", help="Where it runs, as segment has it.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.", rich_help_panel=_PAGE)
    ] = 8642,
    host: Annotated[
        str,
        typer.Option(
            help="Where the page can be reached; beyond this machine it needs a token.", rich_help_panel=_PAGE
        ),
    ] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A token of 16 characters or more, without which the page shows nothing.",
            show_default="the variable TOMOSCRIBE_TOKEN",
            rich_help_panel=_PAGE,
        ),
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Show no page.", rich_help_panel=_PAGE)] = False,
    voxel_size: Annotated[
        float | None, typer.Option(metavar="Å", min=0.01, help="Voxel size in Å.", rich_help_panel=_OVERRIDES)
    ] = None,
    axes: Annotated[
        Axes,
        typer.Option(
            help="Axes of the files, fastest first; AreTomo without FlipVol: xzy.", rich_help_panel=_OVERRIDES
        ),
    ] = Axes.XYZ,
    mode0: Annotated[Mode0, typer.Option(help="Bytes of MRC mode 0.", rich_help_panel=_OVERRIDES)] = Mode0.AUTO,
) -> None:
    """Label every reconstruction that lands in a folder, and show it on a page."""
    _check_packages()
    from tomoscribe.engine import Bundle, default_bundle
    from tomoscribe.engine.watch.settings import WatchSettings

    _check_folders(folder, output)
    settings = WatchSettings(
        folder=folder,
        output=output,
        patterns=tuple(pattern or ()),
        polling=polling or None,
        keep_free=round(keep_free * 1e9),
        on_done=_command(on_done),
        classes=[name.strip() for entry in classes or () for name in entry.split(",") if name.strip()] or None,
        invert=invert,
        rescale=not no_rescale,
        sample_only=sample_only,
        voxel_size=voxel_size,
        axes=axes.value,
        mode0=mode0.value,
    )
    bundle = Bundle.load(model or default_bundle())
    bundle.specification.class_map.select(settings.classes or ())
    with contextlib.ExitStack() as opened:
        server, token = None, None
        if not no_page:
            token = _token(host, token_file)
            server = _page(settings, bundle, host, port, token)
            opened.callback(server.stop)
        make_segmenter = _maker(bundle, backend, precision, device)
        raise typer.Exit(_run(settings, make_segmenter, server, needs_token=token is not None, quiet=quiet))


def _check_packages() -> None:
    from tomoscribe.engine.errors import BackendUnavailableError

    try:
        import fastapi  # noqa: F401
        import limits  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
        import watchfiles  # noqa: F401
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f'watch needs the package {error.name}; install it with: pip install "tomoscribe[watch]"'
        ) from error


def _check_folders(folder: Path, output: Path) -> None:
    from tomoscribe.engine.errors import ParameterError, TomogramNotFoundError

    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise TomogramNotFoundError(f"{folder}: expected a folder to watch, found {found}; make it first")
    if folder.resolve().is_relative_to(output.resolve()):
        raise ParameterError(
            f"--output {output}: the watched folder {folder} is, or lies in, this folder, and what lies there is not "
            f"watched; choose another, such as {folder / 'labels'}"
        )


def _command(text: str | None) -> tuple[str, ...]:
    """Return the words of ``--on-done``.

    Raises:
        ParameterError: the quotes do not fit, or there is no such program.
    """
    from tomoscribe.engine.errors import ParameterError

    if text is None:
        return ()
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ParameterError(
            f"--on-done {text}: expected a program and its arguments, found quotes that do not fit ({error}); mend them"
        ) from error
    if not words or shutil.which(words[0]) is None:
        raise ParameterError(
            f"--on-done {text}: expected a program and its arguments, found no such program; give its whole path, or "
            "sh -c '...' for what a shell is to do"
        )
    return tuple(words)


def _token(host: str, token_file: Path | None) -> str | None:
    """Return the page's token.

    Raises:
        ParameterError: one is needed and not there, or it cannot be used.
    """
    from tomoscribe.engine.errors import ParameterError
    from tomoscribe.engine.watch.page.tokens import HOW_TO_MAKE_ONE, host_needs_token, read_token

    token = read_token(token_file)
    if token is None and host_needs_token(host):
        raise ParameterError(
            f"--host {host}: others could see the page, so that it needs a token; make one: {HOW_TO_MAKE_ONE}"
        )
    return token


def _page(settings: WatchSettings, bundle: Bundle, host: str, port: int, token: str | None) -> PageServer:
    from tomoscribe.engine.watch.page.app import create_app
    from tomoscribe.engine.watch.page.server import PageServer

    # With a token, the names that a proxy or a tunnel gives this machine do no harm, and cannot be known.
    hosts = ("localhost", "127.0.0.1", "::1", host) if token is None else ("*",)
    class_map = bundle.specification.class_map
    return PageServer(
        lambda: create_app(settings.places.ledger, settings, class_map, token=token, allowed_hosts=hosts), host, port
    )


def _maker(bundle: Bundle, backend: str, precision: str, device: str) -> Callable[[], Segmenter]:
    from tomoscribe.engine import Segmenter
    from tomoscribe.engine.watch.logs import LOGGER

    log = logging.getLogger(f"{LOGGER}.model")
    shares = [1.0]

    def build(phase: str, share: float) -> None:
        if share < shares[0]:  # within a build it never goes back
            log.info("plan         TensorRT builds one for this GPU, which takes minutes, and keeps it: %s", phase)
        shares[0] = share

    def make() -> Segmenter:
        segmenter = Segmenter(bundle, backend=backend, precision=precision, device=device, building=build)
        log.info("model        %s (%s)", bundle.specification.name, bundle.path)
        log.info("backend      %s (%s)", segmenter.backend, segmenter.reason)
        return segmenter

    return make


def _run(
    settings: WatchSettings,
    make_segmenter: Callable[[], Segmenter],
    server: PageServer | None,
    *,
    needs_token: bool,
    quiet: bool,
) -> int:
    """Watch until a signal ends it, and return the exit status."""
    from tomoscribe.cli.watch_page import EventTeller, TerminalHandler, describe_states
    from tomoscribe.engine.watch.ledger import Ledger
    from tomoscribe.engine.watch.logs import open_log
    from tomoscribe.engine.watch.watcher import Watcher

    # Or the interpreter looks through all objects for what is unused before it ends, which takes a second.
    atexit.register(gc.freeze)
    stop = threading.Event()
    with (
        open_log(settings.places.log) as log,
        TerminalHandler(quiet).attached(log),
        Ledger(settings.places.ledger) as ledger,
        StopSignals(stop) as signals,
    ):
        log.info("watching     %s, outputs in %s", settings.folder, settings.output)
        if server is not None:
            log.info("page         %s%s", server.address, "?token=… the first time" if needs_token else "")
        log.info("known        %s", describe_states(ledger.states()))
        with EventTeller(ledger, hooked=bool(settings.on_done)).telling():
            Watcher(settings, make_segmenter, page=None if server is None else server.serve).run(stop)
        log.info("stopped      %s", describe_states(ledger.states()))
    return INTERRUPTED if signals.received == signal.SIGINT else 0
