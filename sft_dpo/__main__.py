"""The command `sft-dpo`, also as `python -m sft_dpo`."""

from flows.cli import main

if __name__ == "__main__":
    main()
