"""Commands that take a model out of a store."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.arguments import (
    AnyReference,
    Reference,
    StoreFolder,
    local_folder,
)

app = typer.Typer()


@app.command()
def export(
    reference: Reference,
    to: Annotated[
        Path,
        typer.Option("--to", help="Folder to write to; must not exist.", callback=local_folder),
    ],
    store: StoreFolder = Path("runs"),
    form: Annotated[
        Literal["merged", "adapter", "gguf"],
        typer.Option(
            help="merged: full weights; adapter: all adapters on the base model as one; "
            "gguf: a file for llama.cpp."
        ),
    ] = "merged",
    dtype: Annotated[
        Literal["bfloat16", "float32"] | None,
        typer.Option(
            help="Dtype of merged weights; default: bfloat16 unless it would lose too much."
        ),
    ] = None,
    converter: Annotated[
        Path | None,
        typer.Option(
            help="llama.cpp's convert_hf_to_gguf.py for --form gguf, or its folder; default: the "
            "one on the PATH, or a writer for Llama and Qwen2."
        ),
    ] = None,
) -> None:
    """Export a model or adapter to a folder, with its lineage and measured differences."""
    from flows.commands.model import export_model

    export_model(reference, store, to, form=form, dtype=dtype, converter=converter)


@app.command()
def publish(
    reference: Reference,
    to: Annotated[str, typer.Option("--to", metavar="ORG/NAME", help="Repository on the hub.")],
    store: StoreFolder = Path("runs"),
    form: Annotated[
        Literal["merged", "adapter"],
        typer.Option(help="merged: full weights; adapter: all adapters on the base model as one."),
    ] = "merged",
    *,
    upload: Annotated[
        bool,
        typer.Option(
            "--upload/--dry-run",
            help="Upload it, with the token in HF_TOKEN; by default, show card and files.",
        ),
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Let everyone see it; by default it is private.")
    ] = False,
) -> None:
    """Show a model with its card as a hub would get it, and upload it where asked to."""
    from flows.commands import publish as publishing

    publishing.publish(reference, store, to, form=form, upload=upload, public=public)


@app.command()
def chat(
    reference: AnyReference = None,
    store: StoreFolder = Path("runs"),
    tokens: Annotated[int, typer.Option(min=1, help="Maximum length of a reply, in tokens.")] = 256,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Show the replies of two models, without saying which is whose, and ask which is "
            "better: each vote is a pair in the inbox. Both are in memory.",
        ),
    ] = None,
    inbox: Annotated[
        Path, typer.Option(help="Folder for these pairs, a file for each session.")
    ] = Path("inbox"),
    web: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            metavar="PORT",
            help="Compare in a browser on this machine instead of here; 0: any free port.",
        ),
    ] = None,
) -> None:
    """Chat with a model in the store: one message per line; an empty line starts a new chat."""
    from flows.commands import model

    if compare is not None and reference is None:
        model.compare(*compare, store, inbox=inbox, tokens=tokens, web=web)
    elif reference is not None and compare is None and web is None:
        model.chat(reference, store, tokens=tokens)
    else:
        raise typer.BadParameter("name a model, or two with --compare (and --web if you like)")
