"""torch-fidelity's values on seeded features: run `python tests/fidelity_reference.py` where it is installed.

Made with torch-fidelity 0.4.0, torch 2.13.0, NumPy 2.4.6. Its metrics on features need no torchvision, which a stub
stands in for where it is missing.
"""

import numpy as np

VALUES = {
    "frechet_inception_distance": 1.3305482387022494,
    "inception_score_mean": 3.84644948608762,
    "precision": 0.9480000138282776,
    "recall": 0.5266666412353516,
    "kid_1_subsets_of_1000": 0.16610240936279297,
    "kid_20_subsets_of_200": 0.16138314008712767,
}


def features():
    """Real and fake [1200, 16] and [1000, 16] float32 and logits of the fakes [1000, 10]: shifted, correlated."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(16, 16)) / 4
    real = rng.normal(size=(1200, 16)) @ mix
    fake = 0.8 * rng.normal(size=(1000, 16)) @ mix + 0.2
    return real.astype(np.float32), fake.astype(np.float32), (3 * rng.normal(size=(1000, 10))).astype(np.float32)


def main():
    import sys
    from unittest import mock

    import torch

    for name in ("", ".datasets", ".transforms", ".transforms.functional", ".models"):
        sys.modules.setdefault(f"torchvision{name}", mock.MagicMock())
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    real, fake, logits = map(torch.from_numpy, features())
    same = real[:1000]  # kernel distances are of sets of one size
    stats = [metric_fid.fid_features_to_statistics(x.double()) for x in (fake, real)]
    found = metric_fid.fid_statistics_to_metric(*stats, verbose=False)
    found |= metric_isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    options = dict(prc_neighborhood=3, prc_batch_size=500, save_cpu_ram=False, verbose=False)
    found |= metric_prc.prc_features_to_metric(fake, real, **options)
    for size, subsets in ((1000, 1), (200, 20)):
        kid = dict(kid_subsets=subsets, kid_subset_size=size, kid_kernel="poly", kid_kernel_poly_degree=3)
        kid |= dict(kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1, rng_seed=2020, verbose=False)
        value = metric_kid.kid_features_to_metric(fake, same, **kid)["kernel_inception_distance_mean"]
        found[f"kid_{subsets}_subsets_of_{size}"] = value
    for name in VALUES:
        print(f'    "{name}": {float(found[name])!r},')


if __name__ == "__main__":
    main()
