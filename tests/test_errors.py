"""_errors.py: what each exception is a kind of, and that it can be kept and sent."""

import copy
import pickle

import pytest

import greenio
from greenio import _errors

GREENIO_ERRORS = [
    greenio.WouldBlock,
    greenio.ChannelClosed,
    greenio.DeadlockError,
    greenio.RunFinishedError,
    greenio.InternalError,
]
OF_STREAMS = [
    greenio.LimitExceeded("a text", 5),
    greenio.IncompleteReadError(b"part", 10),
    greenio.IncompleteReadError(b"", None),
]


@pytest.mark.parametrize("cls", GREENIO_ERRORS)
def test_everything_but_cancelled_is_a_greenio_error(cls):
    assert issubclass(cls, greenio.GreenioError)
    assert issubclass(cls, Exception)
    assert cls("a text").args == ("a text",)


def test_cancelled_is_no_exception_and_no_other_librarys():
    assert issubclass(greenio.Cancelled, BaseException)
    assert not issubclass(greenio.Cancelled, Exception)


def test_cancelled_has_its_reason():
    assert greenio.Cancelled().reason is None
    assert greenio.Cancelled().args == ()
    reason = ["any", "object"]
    assert greenio.Cancelled(reason).reason is reason
    assert greenio.Cancelled(reason).args == (reason,)
    assert str(greenio.Cancelled("why")) == "why"


@pytest.mark.parametrize(
    "error",
    [greenio.Cancelled(), greenio.Cancelled("why"), *(cls("x") for cls in GREENIO_ERRORS), *OF_STREAMS],
    ids=repr,
)
def test_errors_survive_pickle_and_copy(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert again.args == error.args
        assert vars(again) == vars(error)
        assert str(again) == str(error)


@pytest.mark.parametrize("error", OF_STREAMS, ids=repr)
def test_errors_of_streams_say_how_far_it_came(error):
    assert isinstance(error, greenio.GreenioError)
    assert isinstance(error, EOFError) == isinstance(error, greenio.IncompleteReadError)
    assert str(error) in (
        "a text",
        "the stream ended after 4 bytes, before 10 bytes had come",
    ) or "the separator" in str(error)


def test_every_error_is_public_and_drawn_in_the_tree():
    classes = [
        value for value in vars(_errors).values() if isinstance(value, type) and issubclass(value, BaseException)
    ]
    assert len(classes) == len(GREENIO_ERRORS) + len({type(error) for error in OF_STREAMS}) + 3
    for cls in classes:
        assert cls.__name__ in greenio.__all__
        assert cls.__name__ in _errors.__doc__
