"""Files that are not what was written are refused, and nothing is ever unpickled."""

import io
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eprop_jax as ej
from eprop_jax import checkpoints, training
from eprop_jax.run import folders
from eprop_jax.tasks import files

TREE = {"w": jnp.arange(6.0).reshape(2, 3), "count": jnp.int32(4), "key": jax.random.key(3)}
LIKE = {"w": jnp.zeros((2, 3)), "count": jnp.int32(0), "key": jax.random.key(0)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    checkpoints.save(folder, TREE, 7)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(written, tmp_path / "copy")
    return tmp_path / "copy"


def at(folder, step=7):
    return folder / f"{step:09d}"


def refusal(folder, like=LIKE, kind=ValueError, step=None):
    with pytest.raises(kind) as found:
        checkpoints.restore(folder, like, step)
    message = str(found.value)
    assert "wanted" in message and "Traceback" not in message
    return message


def files_of(folder):
    return sorted(f for f in at(folder).rglob("*") if f.is_file() and f.name != folders.SUMS)


def test_what_was_written_is_read(folder):
    read = checkpoints.restore(folder, LIKE)
    assert jnp.array_equal(read["w"], TREE["w"]) and int(read["count"]) == 4
    assert jnp.array_equal(jax.random.key_data(read["key"]), jax.random.key_data(TREE["key"]))


def test_a_carry_and_a_training_state_come_back(tmp_path):
    import optax

    net = ej.Network(ej.cells.lif(3, 4, refractory=2), ej.readouts.leaky(4, 2))
    rule, params = ej.eprop(net, ej.losses.squared_error), net.init(jax.random.key(0))
    carry = jax.jit(rule.init, static_argnums=1)(params, (2,))
    carry = jax.tree.map(lambda x: np.arange(x.size, dtype=x.dtype).reshape(x.shape), carry)
    state = training.TrainState(params, optax.sgd(0.1, 0.9).init(params), jax.random.key(1), 3)
    checkpoints.save(tmp_path, (carry, state), 0)
    like = (
        jax.tree.map(np.zeros_like, carry),
        state._replace(params=jax.tree.map(jnp.zeros_like, params), key=jax.random.key(0), step=0),
    )
    read = checkpoints.restore(tmp_path, like)
    assert jax.tree.structure(read) == jax.tree.structure((carry, state))
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves((carry, state))):
        assert type(a) is type(b) and jnp.result_type(a) == jnp.result_type(b)
        a, b = (np.asarray(jax.random.key_data(x) if checkpoints._is_key(x) else x) for x in (a, b))
        assert np.array_equal(a, b)


def test_every_file_is_checked_for_its_length_and_every_byte(folder):
    for file in files_of(folder):
        content, name = file.read_bytes(), file.relative_to(at(folder)).as_posix()
        for spoiled in (
            content[: len(content) // 2],
            b"",
            bytes([content[0] ^ 1]) + content[1:],
            content[:-1] + bytes([content[-1] ^ 128]),
            content + b"\0",
        ):
            file.write_bytes(spoiled)
            assert f"{name} was changed or cut short" in refusal(folder)
        file.write_bytes(content)
    checkpoints.restore(folder, LIKE)


def test_a_missing_file_and_one_more_are_refused(folder):
    file = files_of(folder)[0]
    content = file.read_bytes()
    file.unlink()
    assert f"{file.name} is missing" in refusal(folder)
    file.write_bytes(content)
    (at(folder) / "tree" / "more.bin").write_bytes(b"1")
    assert "tree/more.bin was not written with it" in refusal(folder)


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[1, 2]", b'"text"', b"null", b"{}", b"\xff\xfe\x00", b"7"]
)
def test_a_folder_without_sums_is_none_of_ours(folder, content):
    sums = at(folder) / folders.SUMS
    sums.unlink() if content is None else sums.write_bytes(content)
    assert "has no readable SHA256.json" in refusal(folder)


@pytest.mark.parametrize("value", [None, 3, ["a"], "0" * 64])
def test_sums_of_another_kind_are_refused(folder, value):
    sums = at(folder) / folders.SUMS
    content = json.loads(sums.read_text())
    sums.write_text(json.dumps({**content, min(content): value}))
    assert f"{min(content)} was changed" in refusal(folder)


def test_a_file_that_was_forged_with_its_sum_is_refused_as_unreadable(folder):
    for name in ("_METADATA", "manifest.ocdbt"):
        file = at(folder) / "tree" / name
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        (at(folder) / folders.SUMS).write_text(json.dumps(folders.sums(at(folder))))
        assert "orbax cannot read it" in refusal(folder)
        file.write_bytes(content)


class Planted:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_never_loaded(folder, tmp_path):
    left = tmp_path / "unpickled"
    planted = pickle.dumps(Planted(left))
    pickle.loads(planted).close()
    assert left.exists()  # it would
    left.unlink()
    for name in ("tree/checkpoint", "tree/checkpoint.pkl", "tree/_METADATA"):
        file = at(folder) / name
        before = file.read_bytes() if file.exists() else None
        file.write_bytes(planted)
        refusal(folder)
        (at(folder) / folders.SUMS).write_text(json.dumps(folders.sums(at(folder))))
        try:
            checkpoints.restore(folder, LIKE)  # with a sum of its own: unread, or refused
        except ValueError as error:
            assert "orbax cannot read it" in str(error)
        file.unlink() if before is None else file.write_bytes(before)
    assert not left.exists()


LIKES = [
    ({**LIKE, "w": jnp.zeros((3, 2))}, "like['w']: wanted float64[3, 2], and", "float64[2, 3]"),
    ({**LIKE, "w": jnp.zeros((2, 3), "float32")}, "like['w']: wanted float32[2, 3]", "float64[2, 3]"),
    ({**LIKE, "more": jnp.zeros(1)}, "like['more']: wanted float64[1]", "has nothing"),
    ({"w": LIKE["w"], "key": LIKE["key"]}, "like['count']: wanted nothing", "int32[]"),
    ([LIKE["w"]], "like[0]: wanted float64[2, 3]", "has nothing"),
]  # fmt: skip


@pytest.mark.parametrize("like, wanted, has", LIKES, ids=[row[1] for row in LIKES])
def test_a_checkpoint_of_another_tree_is_refused(written, like, wanted, has):
    message = refusal(written, like)
    assert message.startswith(wanted) and has in message


def test_steps_that_are_not_there(written, tmp_path):
    assert "step: got 8" in refusal(written, kind=FileNotFoundError, step=8)
    assert "[7]" in refusal(written, kind=FileNotFoundError, step=8)
    assert "folder: got" in refusal(tmp_path, kind=FileNotFoundError)
    (tmp_path / "notes").mkdir()
    (tmp_path / "000000003").write_text("a file, not a folder")
    assert checkpoints.steps(tmp_path) == []


def test_the_last_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, {"w": jnp.ones(2)}, step, keep=2)
    assert checkpoints.steps(tmp_path) == [3, 4]


def test_foreign_folders_that_bear_a_number_are_refused_or_not_seen(tmp_path):
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as writer:
        writer.save(at(tmp_path, 5), {"w": jnp.ones(2)})
    assert "wanted a checkpoint that ej.checkpoints.save wrote" in refusal(tmp_path)


# -- trees -----------------------------------------------------------------------------------------


def there_and_back(folder, tree, like=None):
    checkpoints.save(folder, tree, 0)
    return checkpoints.restore(folder, tree if like is None else like)


def same_leaves(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert type(x) is type(y) and jnp.result_type(x) == jnp.result_type(y), (x, y)
        assert np.shape(x) == np.shape(y) and np.array_equal(x, y)
    return True


def test_numbers_come_back_as_the_kind_they_were(tmp_path):
    tree = {
        "python": (3, -2.5, True, 2 + 1j, 2**62),
        "numpy": (np.float32(0.1), np.int8(-3), np.bool_(True), np.float64(0.1)),
        "arrays": (np.arange(3), jnp.arange(3, dtype="int16"), jnp.bfloat16(2), np.float64([1.0])),
        "empty": (np.zeros((0, 3)), jnp.zeros((2, 0)), jax.random.split(jax.random.key(0), 0)),
    }
    like = jax.tree.map(lambda x: x if np.size(x) == 0 else type(x)(x * 0) if np.ndim(x) == 0
                        and not isinstance(x, jax.Array) else x * 0, tree)  # fmt: skip
    keys, tree["empty"] = tree["empty"][2], tree["empty"][:2]
    like_keys, like["empty"] = like["empty"][2], like["empty"][:2]
    assert same_leaves(there_and_back(tmp_path, tree, like), tree)
    assert there_and_back(tmp_path, keys, like_keys).shape == (0,)
    assert there_and_back(tmp_path, np.zeros(0)).shape == (0,)


def test_a_state_saved_with_a_float32_user_s_numbers_is_read(tmp_path):
    """Without x64, NumPy's float64 and Python's numbers must come back too."""
    tree = {"step": 3, "best": 0.25, "mean": np.float64(0.1), "history": np.arange(3.0)}
    with jax.enable_x64(False) if hasattr(jax, "enable_x64") else jax.experimental.disable_x64():
        assert same_leaves(there_and_back(tmp_path, tree), tree)


def test_keys_of_any_kind_are_told_apart(tmp_path):
    places = [
        {1: 1.0, 2: 2.0},
        {(0, 1): 1.0, (1, 0): 2.0},
        {"a.b": 1.0, "a": {"b": 2.0}},
        {"a/b": 1.0, "a": {"b": 2.0}},
        {"": 1.0, " ": 2.0},
        {"0": 1.0, "../x": 2.0},
        {"a": [1.0, {"0": 2.0}], "a.0": 3.0},
        {"ü": 1.0, "u": {"": 2.0}},
        [(1.0, {3: 2.0}), None, 3.0],
        4.0,
    ]
    for tree in places:
        tree = jax.tree.map(jnp.asarray, tree)
        zeros = jax.tree.map(jnp.zeros_like, tree)
        assert same_leaves(there_and_back(tmp_path, tree, zeros), tree)
    checkpoints.save(tmp_path, {1: 1.0}, 0)
    assert "like['1']: wanted float, and" in refusal(tmp_path, {"1": 1.0})


def test_a_number_takes_any_scalar_of_its_kind_and_no_other(tmp_path):
    checkpoints.save(tmp_path, {"n": jnp.int32(3), "x": np.float32(0.5)}, 0)
    assert checkpoints.restore(tmp_path, {"n": 0, "x": 0.0}) == {"n": 3, "x": 0.5}
    assert "like['n']: wanted float" in refusal(tmp_path, {"n": 0.0, "x": 0.0})
    assert "like['n']: wanted bool" in refusal(tmp_path, {"n": False, "x": 0.0})
    checkpoints.save(tmp_path, 3, 0)
    assert "like: wanted int32[]" in refusal(tmp_path, jnp.int32(0))


@pytest.mark.parametrize(
    "leaf, said", [("a", "got str"), (np.array(["a"]), "dtype <U1"), (np.array([{}]), "dtype object"),
                   (2**63, "int of 64 bits")]
)  # fmt: skip
def test_what_is_no_number_is_refused_before_anything_is_written(tmp_path, leaf, said):
    with pytest.raises((TypeError, ValueError), match=r"tree\['w'\]: got .*wanted") as found:
        checkpoints.save(tmp_path / "new", {"w": leaf}, 0)
    assert said in str(found.value) and not (tmp_path / "new").exists()


def test_keys_of_another_generator_are_refused(tmp_path):
    checkpoints.save(tmp_path, jax.random.key(0, impl="rbg"), 0)
    assert "wanted key<urbg>[]" in refusal(tmp_path, jax.random.key(0, impl="unsafe_rbg"))


def test_checkpoints_of_the_first_format_are_read(tmp_path):
    """As versions before this one wrote them: the tree itself, through orbax."""
    import orbax.checkpoint as ocp

    state = training.TrainState({"cell": {"w": jnp.arange(3.0)}}, (), jax.random.key(1), 3)
    plain = state._replace(key=np.asarray(jax.random.key_data(state.key)), step=np.asarray(3))
    at(tmp_path).mkdir()
    with ocp.StandardCheckpointer() as writer:
        writer.save(at(tmp_path) / "tree", jax.tree.map(np.asarray, plain))
    (at(tmp_path) / folders.SUMS).write_text(json.dumps(folders.sums(at(tmp_path))))
    like = state._replace(params={"cell": {"w": jnp.zeros(3)}}, key=jax.random.key(0), step=0)
    read = checkpoints.restore(tmp_path, like)
    assert np.array_equal(read.params["cell"]["w"], np.arange(3.0)) and read.step == 3
    assert np.array_equal(jax.random.key_data(read.key), jax.random.key_data(state.key))
    message = refusal(tmp_path, like._replace(key=jnp.zeros(2)))
    assert "like['key']: wanted float64[2]" in message and "uint32[2]" in message


# -- data ------------------------------------------------------------------------------------------

READERS = {"digits.npz": ej.tasks.digits, "japanese_vowels.npz": ej.tasks.japanese_vowels}


@pytest.fixture
def data(tmp_path, monkeypatch):
    for name in READERS:
        shutil.copy(files.folder() / name, tmp_path / name)
    monkeypatch.setattr(files, "folder", lambda: tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", READERS)
def test_a_data_file_that_was_changed_is_refused(data, name):
    assert len(READERS[name]()[0]) > 100
    content = (data / name).read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    for spoiled in (content[:middle], b"", changed, content + b"\0"):
        (data / name).write_bytes(spoiled)
        with pytest.raises(ValueError, match=f"{name}: got {len(spoiled)} bytes .* wanted "):
            READERS[name]()
    (data / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        READERS[name]()


def test_a_data_file_with_a_pickle_is_not_loaded_even_if_its_sum_is_right(data, tmp_path):
    import hashlib

    left, file = tmp_path / "unpickled", io.BytesIO()
    np.savez(file, images=np.array([Planted(left)], object))
    (data / "digits.npz").write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        files.packaged("digits.npz", hashlib.sha256(file.getvalue()).hexdigest())
    assert not left.exists()
