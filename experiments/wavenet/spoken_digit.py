"""WaveNet on the Free Spoken Digit Dataset (2,500 recordings of ten digits, 8 kHz), conditioned on the digit.

`gen-jax train --config=experiments/wavenet/spoken_digit.py --workdir=runs/wavenet_digit --config.data.path=FSDD`
FSDD is the archive of version 1.0.9 (free-spoken-digit-dataset-1.0.9.tar.gz) or the folder that it unpacks to.
Samples have the formants of their digit under noise.
`:output=logistic_mixture` predicts the 16-bit amplitudes instead of mu-law codes: other units.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False, output=("mu_law", "logistic_mixture"))


def get_config(arg):
    c = ConfigDict(dict(total_steps=8_000, batch_size=2))
    c.eval_every, c.save_every = 2_000, 500
    c.data = dict(source="wav_folder", path="free-spoken-digit-dataset-1.0.9.tar.gz", label=r"^(\d)_")
    c.data.update(sample_rate=8_000, length=4_096, test_pattern=r"_[0-4]\.wav$")  # the README's test split
    c.model_name = "wavenet"
    c.model = dict(output=arg.output, num_classes=10)
    c.optim = dict(net=dict(lr=4e-3, schedule="cosine", warmup=100, clip=1.0, ema=0.999))
    c.eval_batch_size = 10
    c.evals = dict(
        mean=dict(type="mean"),
        audio=dict(type="audio", when="end"),
    )
    if arg.output == "mu_law":
        c.evals.markov = dict(type="markov")
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 48
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data = dict(source="tones", pitches=4, length=64, examples=400)
    c.model.width, c.model.skip, c.model.stacks, c.model.depth, c.model.num_classes = 8, 16, 1, 3, 4
    c.optim.net.warmup = 2
    if "markov" in c.evals:
        c.evals.markov.order = 2
    return c


EXPECT = [
    dict(
        flags=("data.path=FSDD",),
        minutes=30,
        metrics=[
            dict(
                metric="test/bits_per_sample",
                value=3.804,
                tolerance=0.03,
                published=5.046,
                source="best of three Markov models",
            )
        ],
    )
]
