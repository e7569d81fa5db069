"""English to German on Multi30k's captions (Elliott et al. 2016): a Transformer of 4 layers, 128 wide.

`gen-jax train --config=experiments/encoder_decoder/multi30k.py --workdir=runs/multi30k --config.data.path=multi30k`
`path` is a folder with train, val and test_2016_flickr, each as .en.gz and .de.gz, one sentence a line.
"""

from ml_collections import ConfigDict

ARGS = dict(smoke=False)


def get_config(arg):
    c = ConfigDict(dict(total_steps=3_000, batch_size=32, steps_per_call=5))
    c.log_every, c.eval_every, c.save_every = 50, 500, 250
    c.data = dict(source="pairs", path="multi30k", test_name="test_2016_flickr")
    c.model_name = "encoder_decoder"
    c.model = dict(end=6_000)
    c.optim = dict(net=dict(lr=2e-3, schedule="cosine", warmup=300, b2=0.98, clip=1.0, ema=0.995))
    c.eval_batch_size = 128
    c.evals = dict(
        val=dict(type="mean", split="validation"),
        greedy=dict(
            type="translation", split="validation", prefix="greedy_", sampling=dict(temperature=0.0, length=64)
        ),
        test=dict(type="translation", sampling=dict(beams=5, length=64), when="end"),
    )
    return smoke(c) if arg.smoke else c


def smoke(c):
    """Seconds on any machine, on embedded pairs."""
    c.total_steps, c.batch_size, c.steps_per_call, c.eval_batch_size = 4, 8, 1, 64
    c.log_every, c.eval_every, c.save_every = 2, 4, 4
    c.data = dict(source="reversal", pairs=400)
    c.model.vocab, c.model.end, c.model.width, c.model.encoder_layers, c.model.decoder_layers = 301, 300, 16, 1, 1
    c.optim.net.warmup, c.evals.test.sampling.beams = 2, 2
    for name in ("greedy", "test"):
        c.evals[name].max_examples, c.evals[name].sampling.length = 64, 8
    return c


EXPECT = [
    dict(
        flags=("data.path=multi30k",),
        minutes=27,
        metrics=[
            dict(metric="test/bleu", value=37.3, tolerance=0.7, unit="sacrebleu 13a"),
            dict(metric="val/greedy_bleu", value=35.9, tolerance=0.7, unit="sacrebleu 13a"),
        ],
    )
]
