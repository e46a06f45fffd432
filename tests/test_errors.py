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
    "error", [greenio.Cancelled(), greenio.Cancelled("why"), *(cls("x") for cls in GREENIO_ERRORS)], ids=repr
)
def test_errors_survive_pickle_and_copy(error):
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert again.args == error.args
        assert getattr(again, "reason", None) == getattr(error, "reason", None)


def test_every_error_is_public_and_drawn_in_the_tree():
    classes = [
        value for value in vars(_errors).values() if isinstance(value, type) and issubclass(value, BaseException)
    ]
    assert len(classes) == len(GREENIO_ERRORS) + 3
    for cls in classes:
        assert cls.__name__ in greenio.__all__
        assert cls.__name__ in _errors.__doc__
