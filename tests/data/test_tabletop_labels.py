"""Labels of the built-in world: the same bits every time, and true to the pictures and the sound."""

import filecmp
import json

import numpy as np
import pytest

from vkdlab.data import FrameReader, manifests, tabletop
from vkdlab.data.tabletop import render, solids
from vkdlab.data.tabletop.build import labels_of
from vkdlab.data.tabletop.events import plan
from vkdlab.data.tabletop.sound import RATE_HZ, event_sound, sound_track
from vkdlab.data.tabletop.stage import MATERIALS, layer_affine
from vkdlab.data.tabletop.verbs import VERBS

SMOKE_LABELS_SHA256 = "b38db3eb95e520672d60283cc8a678a9d30d1c164d9b3183aff0472cedc0a4c0"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke world, built by two processes."""
    return tabletop.build("smoke", root=tmp_path_factory.mktemp("two"), workers=2, progress=False)


@pytest.fixture(scope="module")
def scene():
    """One smoke scene with all its maps and masks."""
    scene = plan(tabletop.config_of("smoke"), "train", 1)
    maps = render.affines(scene)
    return scene, maps, render.masks(scene, maps)


def test_labels_are_the_same_bytes_with_one_process_and_with_two(smoke, tmp_path):
    again = tabletop.build("smoke", root=tmp_path, workers=1, progress=False)
    assert again.name == smoke.name
    names = sorted(path.name for path in (smoke / "labels").iterdir())
    assert len(names) == 32
    match, mismatch, errors = filecmp.cmpfiles(smoke / "labels", again / "labels", names, shallow=False)
    assert (sorted(match), mismatch, errors) == (names, [], [])


def test_the_smoke_labels_are_those_of_this_version_of_the_world(smoke):
    """Fails when the world changes: then raise VERSION, the manifest's version and counts, and pin the new hash."""
    assert json.loads((smoke / "world.json").read_text())["labels_sha256"] == SMOKE_LABELS_SHA256
    assert manifests.get("tabletop").build.version == str(tabletop.VERSION)


def test_the_manifest_states_the_worlds_settings_and_counts(smoke):
    manifest = manifests.get("tabletop")
    for profile, config in tabletop.PROFILES.items():
        assert manifest.build.seed == config.seed
        assert manifest.build.profiles[profile] == {
            "width": config.width,
            "height": config.height,
            "shortest_s": config.duration_s[0],
            "longest_s": config.duration_s[1],
            "difficulty": config.difficulty,
        }
        assert {split: manifest.split(split).videos[profile] for split in config.videos} == config.videos
    for split in ("train", "val", "test"):
        data = tabletop.dataset(split, profile="smoke", root=smoke.parent)
        for kind in ("videos", "queries", "actions", "questions"):
            assert len(getattr(data, kind)) == getattr(manifest.split(split), kind)["smoke"]


def test_events_lie_within_their_video_and_on_its_frames():
    verbs = set()
    for index in range(60):
        video = labels_of(plan(tabletop.config_of("demo"), "train", index))
        assert 3 <= len(video["events"]) <= 8
        assert 10 <= video["duration_s"] <= 30
        for event in video["events"]:
            assert 0 < event["start_s"] < event["end_s"] < video["duration_s"]
            for time_s in (event["start_s"], event["end_s"]):
                assert abs(time_s * 12.5 - round(time_s * 12.5)) < 1e-9
            verbs.add(event["verb"])
    assert verbs == set(VERBS)


def test_events_of_one_object_never_overlap_and_some_of_different_objects_do():
    together = 0
    for index in range(40):
        events = plan(tabletop.config_of("demo"), "val", index).events
        for n, first in enumerate(events):
            for second in events[n + 1 :]:
                overlap = first.end_frame > second.start_frame
                together += overlap
                assert not (overlap and {first.object, first.other} & {second.object, second.other} - {None})
    assert together > 20


def test_masks_show_the_topmost_thing_at_each_pixel(scene):
    scene, maps, masks = scene
    frame = scene.events[0].start_frame + 3
    expected = np.zeros(masks.shape[1:], np.uint8)
    for k in render.drawing_order(scene, frame):
        layer = scene.layers[k - 1]
        outline = render.sprite_of(layer, int(layer.track.pose[frame])).outline
        back = np.linalg.inv(np.vstack([maps[frame, k], [0, 0, 1]]))
        for y in range(expected.shape[0]):
            for x in range(expected.shape[1]):
                u, v, _ = np.floor(back @ (x + 0.5, y + 0.5, 1))
                if 0 <= u < outline.shape[1] and 0 <= v < outline.shape[0] and outline[int(v), int(u)]:
                    expected[y, x] = k
    assert (expected != masks[frame]).mean() < 1e-3
    assert len(np.unique(expected)) >= 4


def test_boxes_are_tight_and_nan_where_nothing_is_visible(smoke):
    labels = tabletop.annotations("smoke-train-0001", root=smoke.parent)
    t, n = len(labels.masks), len(labels.instances)
    assert labels.boxes.shape == (t, n, 4)
    for i in range(0, t, 7):
        for k in range(n):
            rows, columns = np.nonzero(labels.masks[i] == k + 1)
            if not len(rows):
                assert np.isnan(labels.boxes[i, k]).all()
            else:
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert tuple(labels.boxes[i, k]) == box


def test_semantic_classes_follow_the_instances(smoke):
    labels = tabletop.annotations("smoke-val-0000", root=smoke.parent)
    classes = labels.semantic(10)
    assert (classes[labels.masks[10] == 0] == 0).all()
    for instance in labels.instances:
        assert tabletop.SEMANTICS[instance.semantic] == instance.kind
        assert (classes[labels.masks[10] == instance.id] == instance.semantic).all()


def test_flow_is_the_finite_difference_of_tracked_points(smoke):
    """Follows points of the things through the unrounded tracks, past everything that flow is computed from."""
    labels = tabletop.annotations("smoke-train-0002", root=smoke.parent)
    scene = plan(tabletop.config_of("smoke"), "train", 2)
    checked = 0
    for event in scene.events:
        for i in range(event.start_frame, event.end_frame - 1, 3):
            flow = labels.flow(i)
            layer = scene.layers[event.object - 1]
            rows, columns = np.nonzero(labels.masks[i] == event.object)
            for y, x in list(zip(rows, columns, strict=True))[::37]:
                where = []
                for frame in (i, i + 1):
                    a, b, c, d, e, f = layer_affine(layer, render.sprite_of(layer).anchor, frame)
                    thing = np.array([[a, b, c], [d, e, f], [0, 0, 1]])
                    where.append(np.vstack([scene.camera[frame], [0, 0, 1]]) @ thing)
                point = np.linalg.solve(where[0], (x + 0.5, y + 0.5, 1))
                moved = (where[1] @ point)[:2] - (x + 0.5, y + 0.5)
                assert np.abs(flow[y, x] - moved).max() < 2e-3
                checked += 1
    assert checked > 20


def test_flow_carries_each_frame_onto_the_next_better_than_standing_still():
    """Warps frame i + 1 back by the flow, where the same instance is seen at both ends, and compares with frame i."""
    import cv2

    scene = plan(tabletop.config_of("demo"), "train", 3)
    maps = render.affines(scene)
    masks = render.masks(scene, maps)
    labels = tabletop.VideoAnnotations("x", None, scene.duration_s, 12.5, (), masks, None, maps, (), (), ())
    renderer = render.Renderer(scene, maps)
    wins = total = 0
    for event in scene.events:
        if event.verb not in ("slide left", "slide right", "slide up", "slide down", "spin", "grow", "shrink", "shake"):
            continue
        for i in range(event.start_frame + 3, event.end_frame - 3, 4):
            first, second = (cv2.GaussianBlur(renderer.frame(j).astype(np.float32), (0, 0), 0.7) for j in (i, i + 1))
            flow = labels.flow(i)
            y, x = np.mgrid[0 : flow.shape[0], 0 : flow.shape[1]].astype(np.float32)
            to_x, to_y = x + flow[..., 0], y + flow[..., 1]
            back = cv2.remap(second, to_x, to_y, cv2.INTER_LINEAR)
            landing = cv2.remap(masks[i + 1], to_x, to_y, cv2.INTER_NEAREST, borderValue=255)
            inner = cv2.erode((masks[i] == event.object).astype(np.uint8), np.ones((3, 3))) > 0
            seen = inner & (landing == masks[i])
            if seen.sum() > 20 and np.abs(flow[seen]).mean() > 0.5:
                total += 1
                wins += np.abs(back - first)[seen].mean() < np.abs(second - first)[seen].mean()
    assert total >= 5
    assert wins >= 0.9 * total


def test_flow_of_a_frame_that_has_no_successor_is_refused(smoke):
    labels = tabletop.annotations("smoke-val-0000", root=smoke.parent)
    with pytest.raises(IndexError, match=rf"flow from frames 0 to {len(labels.masks) - 2}, was asked for"):
        labels.flow(len(labels.masks) - 1)


def test_video_files_hold_the_frames_and_the_sound_that_the_labels_speak_of(smoke):
    labels = tabletop.annotations("smoke-test-0001", root=smoke.parent)
    reader = FrameReader(labels.path)
    assert (reader.num_frames, reader.height, reader.width) == labels.masks.shape
    assert reader.fps == labels.fps
    assert abs(reader.duration_s - labels.duration_s) < 0.1
    heard = reader.audio(rate_hz=RATE_HZ)[:, 0]
    scene = plan(tabletop.config_of("smoke"), "test", 1)
    played = sound_track(scene)[:, 0]
    length = min(len(heard), len(played)) // 1600 * 1600
    loud = [np.log(1e-4 + np.sqrt((sound[:length].reshape(-1, 1600) ** 2).mean(1))) for sound in (heard, played)]
    assert np.corrcoef(*loud)[0, 1] > 0.9


def test_pictures_in_the_file_are_those_that_were_drawn(smoke):
    labels = tabletop.annotations("smoke-test-0001", root=smoke.parent)
    scene = plan(tabletop.config_of("smoke"), "test", 1)
    drawn = np.stack(list(render.Renderer(scene, labels.affines).frames()))
    decoded = FrameReader(labels.path).frames(range(len(drawn)))
    assert np.abs(decoded.astype(int) - drawn).mean() < 6


def test_every_event_is_heard_above_the_room():
    for index in range(12):
        scene = plan(tabletop.config_of("demo"), "train", index)
        sound = sound_track(scene)[:, 0]
        assert np.abs(sound).max() <= 1
        rate = RATE_HZ / 12.5
        quiet = np.ones(len(sound), bool)
        for event in scene.events:
            quiet[round(event.start_frame * rate) : round((event.end_frame + 25) * rate)] = False
        room = np.sqrt((sound[quiet] ** 2).mean()) if quiet.any() else 0.004
        for event in scene.events:
            span = sound[round(event.start_frame * rate) : round(event.end_frame * rate)]
            assert np.sqrt((span**2).mean()) > 4 * room


def test_verbs_can_be_told_apart_by_ear():
    """A nearest-centroid rule on a coarse spectrogram names most verbs, whatever the material: chance is 1 in 16."""
    rng = np.random.default_rng(0)
    materials = sorted(MATERIALS.values())

    def heard(verb):
        material, seconds = materials[int(rng.integers(6))], 1.2 + 1.3 * rng.random()
        sound = event_sound(verb, material, seconds, rng, other="wood")
        parts = []
        for piece in np.array_split(sound, 5):
            power = np.abs(np.fft.rfft(piece, 4096)) ** 2
            parts += [
                np.log(1e-3 + band.sum()) for band in np.split(power, [20, 45, 80, 130, 200, 320, 520, 850, 1300])
            ]
        return np.array(parts)

    learned = {verb: np.mean([heard(verb) for _ in range(24)], 0) for verb in VERBS}
    right = 0
    for verb in VERBS:
        for _ in range(12):
            sound = heard(verb)
            distances = {name: np.abs(centre - sound).sum() for name, centre in learned.items()}
            right += min(distances, key=distances.get) == verb
    assert right / (12 * len(VERBS)) > 0.6


def test_a_collision_sounds_when_the_things_meet():
    sound = event_sound("collide", "china", 2.0, np.random.default_rng(0), other="glass")
    assert abs(np.argmax(np.abs(sound)) / RATE_HZ - 0.55 * 2.0) < 0.08


def test_actions_carry_verb_and_noun_and_datasets_have_the_same_fingerprint_wherever_they_lie(smoke, tmp_path):
    data = tabletop.dataset("val", profile="smoke", root=smoke.parent)
    assert {action.label for action in data.actions} <= set(VERBS)
    assert {action.noun for action in data.actions} <= set(solids.SHAPES)
    assert all(video.path.is_file() for video in data.videos.values())
    elsewhere = tmp_path / "copy"
    elsewhere.mkdir()
    smoke_copy = elsewhere / smoke.name
    smoke_copy.symlink_to(smoke)
    assert tabletop.dataset("val", profile="smoke", root=elsewhere).fingerprint == data.fingerprint
