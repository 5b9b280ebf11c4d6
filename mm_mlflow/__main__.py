"""``python -m mm_mlflow`` is ``mm-mlflow``."""

from mm_mlflow.cli import main

if __name__ == "__main__":
    main(prog_name="mm-mlflow")
