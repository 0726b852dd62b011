"""The paper's ideas: plain PyTorch and diffusers, usable without Kedro or MLflow."""
