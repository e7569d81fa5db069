"""The smallest VAE with several seeds."""

from members import SMALLEST, smoke

VAE = SMALLEST["vae"]


def seeds(*flags, evals=("elbo",)):
    """The smallest VAE, with few evaluators: most of the time is compiling."""
    experiment = smoke(VAE, *flags)
    return experiment.model_copy(update={"evals": {name: experiment.evals[name] for name in evals}})
