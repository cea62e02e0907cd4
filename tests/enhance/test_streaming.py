import numpy as np
import pytest
import torch

from enhance.networks.overlap_add import OverlapAdd
from enhance.streaming import StreamingDenoiser


@pytest.mark.parametrize("sizes", [[1, 3, 700, 256, 512, 1000, 5, 0, 2523], [5000], [160] * 31 + [40]])
def test_blocks_of_any_size_give_the_offline_result_late(adaptcrn, hum, sizes):
    wave, denoiser = hum(5000), StreamingDenoiser(adaptcrn)
    blocks = [denoiser.process(block) for block in np.split(wave[0], np.cumsum(sizes)[:-1])]
    assert [len(block) for block in blocks] == sizes
    output = np.concatenate([*blocks, denoiser.flush()])
    assert denoiser.latency == 512 and np.abs(output[:512]).max() < 1e-3
    expected = adaptcrn.enhance(torch.from_numpy(wave))[0].numpy()
    np.testing.assert_allclose(output[512:], expected, atol=1e-5)


def test_a_flushed_denoiser_starts_afresh(adaptcrn, hum):
    denoiser, wave = StreamingDenoiser(adaptcrn), hum(1500)[0]
    first = np.concatenate([denoiser.process(wave), denoiser.flush()])
    second = np.concatenate([denoiser.process(wave), denoiser.flush()])
    np.testing.assert_array_equal(first, second)


def test_channels_do_not_mix(adaptcrn, hum):
    wave = hum(3000, channels=2)
    both = StreamingDenoiser(adaptcrn, channels=2).process(wave)
    for channel in range(2):
        np.testing.assert_allclose(
            both[channel], StreamingDenoiser(adaptcrn).process(wave[channel]), atol=1e-6
        )


@pytest.mark.parametrize("limit, share", [(0.0, 1.0), (6.0, 10**-0.3)])
def test_attenuation_limit_mixes_the_input_back(adaptcrn, hum, limit, share):
    wave = torch.from_numpy(hum(3000))
    expected = share * wave + (1 - share) * adaptcrn.enhance(wave)
    torch.testing.assert_close(OverlapAdd(adaptcrn, limit).whole(wave), expected, atol=1e-6, rtol=1e-4)


def test_errors(adaptcrn):
    with pytest.raises(ValueError, match="2 channels.*made for 1"):
        StreamingDenoiser(adaptcrn).process(np.zeros((2, 100)))
    with pytest.raises(ValueError, match="NaN"):
        StreamingDenoiser(adaptcrn).process(np.array([0.0, np.nan]))
    with pytest.raises(ValueError, match="-3"):
        OverlapAdd(adaptcrn, -3)


def test_integers_of_a_sound_card_are_scaled(adaptcrn):
    rng = np.random.default_rng(0)
    samples = rng.integers(-9000, 9000, 2048).astype(np.int16)
    given = StreamingDenoiser(adaptcrn).process(samples)
    expected = StreamingDenoiser(adaptcrn).process(samples.astype(np.float32) / 32768)
    np.testing.assert_array_equal(given, expected)
    assert given.dtype == np.float32 and np.abs(given).max() <= 1
