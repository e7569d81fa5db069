"""A toy translation that a Transformer learns without an error: digits into words, backwards.

`gen-jax train --config=experiments/encoder_decoder/reversal.py --workdir=runs/reversal`
No source of the test split occurs in training.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=1_500, batch_size=32, steps_per_call=10))
    c.eval_every = c.save_every = 500
    c.data = dict(source="reversal")
    c.model_name = "encoder_decoder"
    c.model = dict(vocab=301, end=300, encoder_layers=2, decoder_layers=2, width=64, dropout=0.0, smoothing=0.0)
    c.optim = dict(net=dict(lr=2e-3, schedule="cosine", warmup=100, b2=0.98, clip=1.0))
    c.eval_batch_size = 64
    c.evals = dict(
        val=dict(type="mean", split="validation"),
        greedy=dict(
            type="translation",
            split="validation",
            prefix="greedy_",
            sampling=dict(temperature=0.0, length=24),
            metrics=("exact",),
        ),
        test=dict(type="translation", sampling=dict(beams=5, length=24), metrics=("exact", "bleu"), when="end"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 8, 16, 2, 32
    c.log_every, c.eval_every, c.save_every = 4, 8, 8
    c.data.pairs = 400
    c.model.width, c.model.heads, c.model.encoder_layers, c.model.decoder_layers = 16, 2, 1, 1
    c.optim.net.warmup, c.evals.test.sampling.beams = 2, 2
    c.evals.greedy.sampling.length = c.evals.test.sampling.length = 12
    return c


EXPECT = [
    dict(minutes=2, metrics=[dict(metric="test/exact", value=0.9985, tolerance=0.003, seeds=3, unit="of 901 pairs")])
]
