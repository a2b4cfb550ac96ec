"""Patches equal a convolution, the blocks a library's encoder, and the model learns to see."""

import doctest
import re
from pathlib import Path

import pytest
import torch
from matplotlib import image
from torch import nn
from torch.nn import functional as F

from minigpt import vision
from minigpt.attention import causal_mask
from minigpt.data.sources import local_files
from minigpt.gpt import GPTConfig
from minigpt.pictures import draw_digits, draw_scenes, read_idx
from minigpt.support.errors import CheckpointError, ConfigError, DataError
from minigpt.vision import Vision

pytestmark = pytest.mark.usefixtures("one_thread", "seed_zero")


def small(vocab_size=7, block_size=12, **options):
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "positions": "learned"}
    return GPTConfig(vocab_size=vocab_size, block_size=block_size, **shape | options)


def stirred(model):
    """Give every parameter a value that matters: blocks begin by adding nothing."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def test_examples_of_the_docstrings():
    result = doctest.testmod(vision)
    assert result.attempted > 5
    assert not result.failed


def test_patches_equal_a_convolution():
    pictures, weight = torch.randn(2, 3, 6, 15), torch.randn(5, 3, 3, 3)
    by_hand = vision.patches(pictures, 3) @ weight.flatten(1).T  # (2, 10, 5)
    expected = F.conv2d(pictures, weight, stride=3).flatten(2).transpose(1, 2)
    assert torch.allclose(by_hand, expected, atol=1e-5)


def test_patches_come_row_by_row_and_can_be_joined():
    pictures = torch.randn(2, 3, 6, 15)
    cut = vision.patches(pictures, 3)
    assert cut.shape == (2, 10, 27)
    assert torch.equal(cut[1, 7].view(3, 3, 3), pictures[1, :, 3:6, 6:9])
    assert torch.equal(vision.join_patches(cut, 3, width=15), pictures)


@pytest.mark.parametrize("shape", [(6, 8), (8, 6), (5, 5)])
def test_a_side_that_is_no_multiple_is_refused(shape):
    with pytest.raises(ConfigError, match="a divisor of"):
        vision.patches(torch.zeros(1, 1, *shape), 4)


def test_an_arrival_mask_holds_both_known_masks():
    assert torch.equal(vision.arrival_mask(range(5)), causal_mask(5))
    assert vision.arrival_mask([0] * 4).all()
    prefix = vision.arrival_mask([0, 0, 0, 1, 2])
    assert prefix[:3, :3].all()
    assert not prefix[:3, 3:].any()
    assert torch.equal(prefix[3:, 3:], causal_mask(2))


def test_the_blocks_equal_torchs_encoder():
    """A block of GPT-2's kind with every place seen is torch's own encoder layer."""
    options = {"norm": "layer", "mlp": "gelu", "qk_norm": False, "biases": True, "norm_eps": 1e-5}
    model = stirred(Vision(small(n_layer=1, **options), size=2))
    gelu = lambda x: F.gelu(x, approximate="tanh")  # noqa: E731
    torchs = nn.TransformerEncoderLayer(16, 2, 64, 0.0, gelu, batch_first=True, norm_first=True)
    block = model.gpt.blocks[0]
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = [getattr(p, name) for p in (block.attention.query, block.attention.key)]
            parts.append(getattr(block.attention.value, name))
            getattr(torchs.self_attn, f"in_proj_{name}").copy_(torch.cat(parts))
            getattr(torchs.self_attn.out_proj, name).copy_(getattr(block.attention.output, name))
            getattr(torchs.norm1, name).copy_(getattr(block.attention_norm, name))
            getattr(torchs.norm2, name).copy_(getattr(block.mlp_norm, name))
        ours, theirs = list(block.mlp.parameters()), (torchs.linear1, torchs.linear2)
        for mine, other in zip(ours, [p for one in theirs for p in one.parameters()], strict=True):
            other.copy_(mine)
        x = torch.randn(3, 10, 16)
        expected = model.gpt.norm(torchs.eval()(x + model.gpt.positions.weight[:10]))
        assert torch.allclose(model.read(x), expected, atol=1e-4)


def test_shapes():
    model = Vision(small(block_size=14), size=3, channels=3)
    pictures, idx = torch.rand(2, 3, 6, 15), torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert model(pictures).shape == (2, 7)
    assert model.label_patches(pictures).shape == (2, 10, 7)
    assert model.next_words(pictures, idx).shape == (2, 3, 7)
    assert vision.write_words(model, pictures, begin=1, n_words=4).shape == (2, 4)
    with pytest.raises(ConfigError, match="block_size"):
        model.next_words(pictures, torch.zeros(2, 5, dtype=torch.int64))


def test_every_patch_sees_every_other_unless_a_mask_says_so():
    model = stirred(Vision(small(), size=2))
    before = torch.rand(1, 1, 4, 6)
    after = before.clone()
    after[..., 2:, 4:] += 1  # the last patch
    full = (model.label_patches(before) - model.label_patches(after)).abs().amax(dim=(0, 2))
    assert (full > 1e-4).all()
    causal = [model.label_patches(each, causal_mask(6)) for each in (before, after)]
    moved = (causal[0] - causal[1]).abs().amax(dim=(0, 2))
    assert (moved[:5] < 1e-6).all()
    assert moved[5] > 1e-4


def test_the_label_is_read_from_the_mean_of_the_patches():
    model = stirred(Vision(small(), size=2))
    pictures = torch.rand(2, 1, 4, 6)
    mean = model.label_patches(pictures).mean(dim=1)
    assert torch.allclose(model(pictures), mean, atol=1e-5)
    shares = vision.picture_probabilities(model, pictures)
    assert torch.allclose(shares, mean.softmax(dim=-1), atol=1e-5)


def test_many_pictures_are_read_in_parts(monkeypatch):
    model = stirred(Vision(small(), size=2))
    pictures = torch.rand(5, 1, 4, 6)
    at_once = vision.picture_probabilities(model, pictures)
    monkeypatch.setattr(vision, "PICTURES_AT_A_TIME", 2)
    assert torch.allclose(vision.picture_probabilities(model, pictures), at_once, atol=1e-6)


def test_without_positions_a_picture_is_a_bag_of_patches():
    blind = stirred(Vision(small(positions="none"), size=2))
    told = stirred(Vision(small(), size=2))
    pictures = torch.rand(2, 1, 4, 6)
    cut = vision.patches(pictures, 2)[:, torch.tensor([3, 0, 5, 1, 4, 2])]
    shuffled = vision.join_patches(cut, 2, width=6)
    assert torch.allclose(blind(pictures), blind(shuffled), atol=1e-5)
    assert (told(pictures) - told(shuffled)).abs().max() > 1e-3


def test_a_word_sees_the_picture_and_no_later_word():
    model = stirred(Vision(small(), size=2))
    pictures, idx = torch.rand(1, 1, 4, 6), torch.tensor([[1, 2, 3]])
    base = model.next_words(pictures, idx)
    other_word = model.next_words(pictures, torch.tensor([[1, 2, 6]]))
    assert torch.allclose(base[:, :2], other_word[:, :2], atol=1e-6)
    assert (base[:, 2] - other_word[:, 2]).abs().max() > 1e-3
    changed = pictures.clone()
    changed[..., 2:, 4:] += 1  # the last patch changes what is said after the first word
    assert (base[:, 0] - model.next_words(changed, idx)[:, 0]).abs().max() > 1e-3


def test_words_are_written_one_after_the_other():
    model = stirred(Vision(small(), size=2))
    pictures = torch.rand(3, 1, 4, 6)
    written = vision.write_words(model, pictures, begin=2, n_words=3)
    idx = torch.cat((torch.full((3, 1), 2), written[:, :2]), dim=1)
    assert torch.equal(model.next_words(pictures, idx).argmax(dim=-1), written)


def test_the_same_seed_trains_the_same_model():
    pictures, digits = draw_digits(40, seed=0, side=8)

    def losses(seed):
        torch.manual_seed(0)
        model = Vision(small(10, 4), size=4)
        return vision.fit_pictures(
            model,
            lambda rows: F.cross_entropy(model(pictures[rows]), digits[rows]),
            count=40,
            epochs=3,
            batch_size=16,
            seed=seed,
        )

    assert len(losses(0)) == 9  # the last batch of an epoch is smaller
    assert losses(0) == losses(0) != losses(1)


def test_each_epoch_takes_every_example_once():
    seen, model = [], Vision(small(), size=2)

    def loss_of(rows):
        seen.append(rows.tolist())
        return model(torch.ones(1, 1, 4, 4)).sum()

    vision.fit_pictures(model, loss_of, count=10, epochs=2, batch_size=4)
    assert [len(rows) for rows in seen] == [4, 4, 2, 4, 4, 2]
    first, second = ([n for rows in each for n in rows] for each in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert not model.training


def test_every_parameter_learns():
    model = stirred(Vision(small(), size=2))
    before = {name: p.clone() for name, p in model.named_parameters()}
    x = torch.rand(8, 1, 4, 4)
    loss_of = lambda rows: model(x[rows]).square().mean()  # noqa: E731
    vision.fit_pictures(model, loss_of, count=8, epochs=3)
    still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert not still


@pytest.mark.slow
def test_it_learns_to_read_digits():
    pictures, digits = draw_digits(2000, seed=0)
    held_out, truth = draw_digits(500, seed=1)
    torch.manual_seed(0)
    model = Vision(small(10, 16, n_embd=48), size=4)
    loss_of = lambda rows: F.cross_entropy(model(pictures[rows]), digits[rows])  # noqa: E731
    vision.fit_pictures(model, loss_of, len(pictures), epochs=6)
    said = vision.picture_probabilities(model, held_out).argmax(dim=1)
    assert (said == truth).float().mean() > 0.93


def test_it_learns_captions():
    scenes, others = draw_scenes(60, seed=0, n_things=1), draw_scenes(40, seed=1, n_things=1)
    words = ["<begin>", *sorted({w for caption in scenes.captions for w in caption.split()})]
    rows = [[0, *map(words.index, caption.split())] for caption in scenes.captions]
    idx = torch.tensor(rows)
    torch.manual_seed(0)
    model = Vision(small(len(words), 20, n_embd=32), size=4, channels=3)

    def loss_of(rows):
        scores = model.next_words(scenes.pictures[rows], idx[rows, :-1])
        return F.cross_entropy(scores.flatten(0, 1), idx[rows, 1:].flatten())

    vision.fit_pictures(model, loss_of, count=60, epochs=25, batch_size=20)
    assert torch.equal(vision.write_words(model, scenes.pictures, 0, 3), idx[:, 1:])
    colors = vision.write_words(model, others.pictures, 0, 3)[:, 1].tolist()
    said = [
        words[color] == caption.split()[1]
        for color, caption in zip(colors, others.captions, strict=True)
    ]
    assert sum(said) > 36  # never seen: a color is easy


@pytest.mark.slow
def test_real_mnist_above_95_percent(data_dir):
    """8,000 of MNIST's test pictures to learn from, the other 2,000 to be judged by."""
    files = {path.name.split("-")[1]: read_idx(path) for path in local_files("mnist-t10k")}
    pictures = torch.from_numpy(files["images"] / 255).float()[:, None]
    digits = torch.from_numpy(files["labels"].astype("int64"))
    torch.manual_seed(0)
    model = Vision(small(10, 16, n_embd=64, n_head=4), size=7)
    loss_of = lambda rows: F.cross_entropy(model(pictures[rows]), digits[rows])  # noqa: E731
    vision.fit_pictures(model, loss_of, count=8000, epochs=4)
    said = vision.picture_probabilities(model, pictures[8000:]).argmax(dim=1)
    assert (said == digits[8000:]).float().mean() > 0.95


def test_a_model_comes_back_from_its_file(tmp_path):
    model = stirred(Vision(small(3), size=2, channels=3))
    vision.save_vision(model, ["a", "b", "c"], tmp_path / "m.safetensors")
    again, labels = vision.load_vision(tmp_path / "m.safetensors")
    pictures = torch.rand(2, 3, 4, 6)
    assert labels == ["a", "b", "c"]
    assert torch.equal(again(pictures), model(pictures))


def test_a_file_that_is_no_vision_model_is_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="cannot be read"):
        vision.load_vision(tmp_path / "nothing")
    (tmp_path / "text").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be read"):
        vision.load_vision(tmp_path / "text")
    save_file({"x": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="no vision model"):
        vision.load_vision(tmp_path / "other")
    facts = '{"format": 1, "config": {"vocab_size": 3}, "size": 2, "channels": 1, "labels": []}'
    save_file({"x": torch.zeros(2)}, tmp_path / "lost", metadata={"vision": facts})
    with pytest.raises(CheckpointError, match="cannot be read"):
        vision.load_vision(tmp_path / "lost")


def test_labels_get_numbers():
    numbers, labels = vision.numbered(["b", "a", "b"])
    assert numbers.tolist() == [1, 0, 1]
    assert labels == ["a", "b"]
    with pytest.raises(DataError, match="at least two labels"):
        vision.numbered(["a", "a"])


def test_the_lines_of_the_page_run(tmp_path, monkeypatch, capsys):
    text = (Path(vision.__file__).parents[1] / "docs" / "pictures.md").read_text("utf-8")
    train, use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    pictures, digits = draw_digits(60, seed=0)
    for n, (picture, digit) in enumerate(zip(pictures, digits.tolist(), strict=True)):
        folder = tmp_path / ("new" if n < 3 else "mine") / ("cup" if digit % 2 else "spoon")
        folder.mkdir(parents=True, exist_ok=True)
        image.imsave(folder / f"{n}.png", 1 - picture[0].numpy(), cmap="gray", vmin=0, vmax=1)
    exec(compile(train, "docs/pictures.md", "exec"), {})
    exec(compile(use, "docs/pictures.md", "exec"), {})
    said, *lines = capsys.readouterr().out.splitlines()
    assert "of 11 pictures that it has not seen are right" in said
    assert len(lines) == 3
    assert all(line.split()[0] in ("cup", "spoon") for line in lines)
