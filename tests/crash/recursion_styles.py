"""Ways to recurse through C, each a function without arguments that recurses until something stops it.

What does not raise by itself (a destructor's error is only reported, a deep container is freed level by level) returns.
"""

import ast
import bisect
import collections
import copy
import ctypes
import functools
import heapq
import importlib
import importlib.abc
import io
import itertools
import json
import logging
import marshal
import operator
import pickle
import re
import sqlite3
import sys
import types
import weakref
import xml.etree.ElementTree as ElementTree

STYLES = {}


def style(function):
    STYLES[function.__name__] = function
    return function


def nest(make, depth, innermost=None):
    made = innermost
    for _ in range(depth):
        made = make(made)
    return made


# --- callbacks out of C functions -------------------------------------------------------------------------------------


@style
def python_only():
    python_only()


@style
def sorted_key(_=None):
    sorted([0], key=sorted_key)


@style
def list_sort_lt():
    class Item:
        def __lt__(self, other):
            return [self, other].sort()

    [Item(), Item()].sort()


@style
def max_key(_=None):
    max([0], key=max_key)


@style
def min_of_generator():
    min(min_of_generator() for _ in [0])


@style
def cmp_to_key(a=None, b=None):
    sorted([0, 1], key=functools.cmp_to_key(cmp_to_key))


@style
def reduce(a=None, b=None):
    functools.reduce(reduce, [0, 1])


@style
def re_sub(_=None):
    re.sub("a", re_sub, "a")


@style
def map_(_=None):
    list(map(map_, [0]))


@style
def filter_(_=None):
    list(filter(filter_, [0]))


@style
def str_join():
    "".join(str_join() for _ in [0])


@style
def any_of_generator():
    any(any_of_generator() for _ in [0])


@style
def zip_of_generators():
    list(zip((zip_of_generators() for _ in [0]), [0], strict=False))


@style
def partial():
    functools.partial(partial)()


@style
def lru_cache():
    @functools.lru_cache
    def recurse(n):
        return recurse(n + 1)

    recurse(0)


@style
def bisect_key(_=None):
    bisect.bisect([0], 0, key=bisect_key)


@style
def heap_lt():
    class Item:
        def __lt__(self, other):
            heapq.heapify([self, other])
            return False

    heapq.heapify([Item(), Item()])


@style
def methodcaller(_=None):
    class Caller:
        def call(self):
            return operator.methodcaller("call")(self)

    Caller().call()


@style
def defaultdict():
    class Default(collections.defaultdict):
        def __missing__(self, key):
            return self[key]

    Default()[0]


@style
def weakref_callback():
    class Target:
        pass

    def callback(_):
        target = Target()
        reference = weakref.ref(target, callback)
        del target
        return reference

    callback(None)


@style
def ctypes_callback():
    depth = ended = 0

    @ctypes.CFUNCTYPE(ctypes.c_int)
    def callback():  # an exception cannot leave it
        nonlocal depth, ended
        depth += 1
        callback()
        ended += 1
        return 0

    callback()
    assert 0 < ended <= depth


@style
def sqlite_function():
    connection = sqlite3.connect(":memory:")
    depth = 0

    def recurse():
        nonlocal depth
        depth += 1
        inner = sqlite3.connect(":memory:")
        try:
            inner.create_function("recurse", 0, recurse)
            inner.execute("select recurse()").fetchall()
        finally:
            inner.close()

    try:
        connection.create_function("recurse", 0, recurse)
        connection.execute("select recurse()").fetchall()
    except sqlite3.OperationalError:  # all that sqlite tells of an exception in a function of ours
        raise RecursionError from None
    finally:
        connection.close()


@style
def print_to_file():
    class File:
        def write(self, text):
            print(text, file=self)

    print("", file=File())


@style
def logging_handler():
    class Handler(logging.Handler):
        def emit(self, record):
            logger.warning("again")

    logger = logging.Logger("recursive")
    logger.addHandler(Handler())
    logger.warning("first")


@style
def trace_function():
    def trace(frame, event, argument):
        sys.settrace(trace)
        return called()

    def called():
        return called()

    sys.settrace(trace)
    try:
        called()
    finally:
        sys.settrace(None)


@style
def import_of_imports():
    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.startswith("no_such_module"):
                importlib.import_module(name + "x")

    finder = Finder()
    sys.meta_path.insert(0, finder)
    try:
        importlib.import_module("no_such_module")
    finally:
        sys.meta_path.remove(finder)


# --- special methods --------------------------------------------------------------------------------------------------


def special(name, body, use):
    """A style: an object whose method *name* does *body*, and *use* starts it."""

    def recurse():
        use(type("Recursive", (), {name: body})())

    STYLES[name.strip("_") + "_method"] = recurse


special("__getattr__", lambda self, name: getattr(self, name + "x"), lambda o: o.x)
special("__getattribute__", lambda self, name: self.x, lambda o: o.x)
special("__setattr__", lambda self, name, value: setattr(self, name, value), lambda o: setattr(o, "x", 1))
special("__repr__", lambda self: repr(self), repr)
special("__str__", lambda self: str(self), str)
special("__format__", lambda self, spec: f"{self}", lambda o: f"{o}")
special("__eq__", lambda self, other: self == other, lambda o: o == 1)
special("__lt__", lambda self, other: self < other, lambda o: o < 1)
special("__hash__", lambda self: hash(self), hash)
special("__bool__", lambda self: bool(self), bool)
special("__len__", lambda self: len(self), len)
special("__index__", lambda self: operator.index(self), operator.index)
special("__int__", lambda self: int(self), int)
special("__add__", lambda self, other: self + other, lambda o: o + 1)
special("__call__", lambda self: self(), lambda o: o())
special("__getitem__", lambda self, index: self[index], lambda o: o[0])
special("__contains__", lambda self, item: item in self, lambda o: 1 in o)
special("__iter__", lambda self: iter(self), iter)
special("__next__", lambda self: next(self), next)
special("__reduce_ex__", lambda self, protocol: pickle.dumps(self), pickle.dumps)
special("__deepcopy__", lambda self, memo: copy.deepcopy(self), copy.deepcopy)
special("__instancecheck__", lambda self, item: isinstance(item, self), lambda o: isinstance(1, o))


@style
def property_getter():
    class Recursive:
        @property
        def x(self):
            return self.x

    Recursive().x  # noqa: B018


@style
def init_method():
    class Recursive:
        def __init__(self):
            type(self)()

    Recursive()


@style
def new_method():
    class Recursive:
        def __new__(cls):
            return cls()

    Recursive()


@style
def init_subclass_method():
    class Recursive:
        def __init_subclass__(cls):
            type("Sub", (cls,), {})

    type("Sub", (Recursive,), {})


@style
def set_name_method():
    class Recursive:
        def __set_name__(self, owner, name):
            type("Owner", (), {"x": self})

    type("Owner", (), {"x": Recursive()})


@style
def del_method():
    budget = 3000  # it swallows errors, and would never end

    class Recursive:
        def __del__(self):
            nonlocal budget
            budget -= 1
            if budget > 0:
                Recursive()

    Recursive()


# --- generators and code ----------------------------------------------------------------------------------------------


@style
def yield_from():
    def generator():
        yield from generator()

    list(generator())


@style
def generator_throw():
    def generator():
        try:
            yield
        except ValueError:
            inner = generator()
            next(inner)
            inner.throw(ValueError)

    outer = generator()
    next(outer)
    outer.throw(ValueError)


@style
def yield_from_throw():
    # The chain itself is made level by level; throwing goes down all of it.
    def generator(inner):
        yield
        yield from inner

    chain = nest(generator, 5000, iter([0]))
    next(chain)
    for _ in range(5000):
        chain.send(None)
    chain.throw(ValueError)


@style
def await_chain():
    async def coroutine():
        await coroutine()

    coroutine().send(None)


@style
def exec_():
    names = {}
    names["code"] = compile("exec(code, names)", "", "exec")
    names["names"] = names
    exec(names["code"], names)


@style
def eval_():
    eval("eval_()")


@style
def eval_of_text():
    names = {}
    names["text"] = "eval(text, names)"
    names["names"] = names
    eval(names["text"], names)


@style
def compile_unary():
    compile("-" * 3000 + "1", "", "eval")


@style
def compile_unary_absurd():
    compile("-" * 50_000 + "1", "", "eval")


@style
def compile_sum():
    compile("+".join(["x"] * 30_000), "", "eval")


@style
def compile_calls():
    compile("f" + "()" * 20_000, "", "eval")


@style
def compile_attributes():
    compile("x" + ".y" * 20_000, "", "eval")


@style
def compile_parentheses():
    compile("(" * 190 + "1" + ")" * 190, "", "eval")
    compile("[" * 190 + "1" + "]" * 190, "", "eval")
    compile("(" * 500 + "1" + ")" * 500, "", "eval")


@style
def compile_lambdas():
    compile("lambda: " * 5000 + "1", "", "eval")


@style
def compile_ifs():
    compile("".join(" " * depth + "if x:\n" for depth in range(99)) + " " * 99 + "pass\n", "", "exec")
    compile("if x: pass\n" + "elif x: pass\n" * 5000, "", "exec")


@style
def compile_comparisons():
    compile("not " * 10_000 + "x", "", "eval")


@style
def ast_parse():
    ast.parse("-" * 3000 + "1")


@style
def ast_compile():
    compile(
        ast.Expression(
            nest(
                lambda inner: ast.UnaryOp(ast.USub(), inner, lineno=1, col_offset=0),
                20_000,
                ast.Constant(1, lineno=1, col_offset=0),
            )
        ),
        "",
        "eval",
    )


@style
def ast_literal_eval():
    ast.literal_eval("+".join(["1"] * 5000))


@style
def ast_dump():
    ast.dump(nest(lambda inner: ast.UnaryOp(ast.USub(), inner), 5000, ast.Constant(1)))


@style
def re_compile():
    re.compile("(?:" * 5000 + ")" * 5000)


# --- nested data ------------------------------------------------------------------------------------------------------


@style
def json_loads():
    json.loads("[" * 100_000)


@style
def json_loads_objects():
    json.loads('{"a":' * 100_000)


@style
def json_dumps():
    json.dumps(nest(lambda inner: [inner], 100_000))


@style
def json_dumps_objects():
    json.dumps(nest(lambda inner: {"a": inner}, 100_000))


@style
def json_default():
    json.dumps(object(), default=lambda unknown: [unknown], check_circular=False)


@style
def json_object_hook(_=None):
    json.loads("{}", object_hook=json_object_hook)


@style
def pickle_dumps():
    pickle.dumps(nest(lambda inner: [inner], 100_000))


@style
def pickle_dumps_tuples():
    pickle.dumps(nest(lambda inner: (inner,), 100_000))


class PickledAgain:
    def __getstate__(self):
        return PickledAgain()

    def __reduce__(self):
        return (PickledAgain, (), PickledAgain())


@style
def pickle_reduce():
    pickle.dumps(PickledAgain())


LOADED_AGAIN = b"\x80\x04c" + __name__.encode() + b"\nLoadedAgain\n)\x81Nb."


class LoadedAgain:
    def __setstate__(self, state):
        pickle.loads(LOADED_AGAIN)


@style
def pickle_loads():
    pickle.loads(LOADED_AGAIN)


@style
def marshal_dumps():
    marshal.dumps(nest(lambda inner: [inner], 100_000))


@style
def marshal_loads():
    marshal.loads(b"(\x01\x00\x00\x00" * 100_000)


@style
def deepcopy():
    copy.deepcopy(nest(lambda inner: [inner], 100_000))


@style
def repr_of_lists():
    repr(nest(lambda inner: [inner], 100_000))


@style
def repr_of_dicts():
    repr(nest(lambda inner: {0: inner}, 100_000))


@style
def eq_of_lists():
    nest(lambda inner: [inner], 100_000) == nest(lambda inner: [inner], 100_000)  # noqa: B015


@style
def eq_of_tuples():
    nest(lambda inner: (inner,), 100_000) == nest(lambda inner: (inner,), 100_000)  # noqa: B015


@style
def hash_of_tuples():
    hash(nest(lambda inner: (inner,), 100_000))


@style
def isinstance_of_tuples():
    isinstance(1, nest(lambda inner: (inner,), 100_000, str))


@style
def issubclass_of_tuples():
    issubclass(int, nest(lambda inner: (inner,), 100_000, str))


@style
def partial_of_partials():
    # Made so that they are not merged into one.
    class Partial(functools.partial):
        pass

    def wrap(inner):
        outer = Partial(lambda f: f(), inner)
        outer.attribute = 1
        return outer

    nest(wrap, 20_000, int)()


@style
def chain_next():
    next(nest(itertools.chain, 100_000, iter([0])))


@style
def map_next():
    next(nest(lambda inner: map(int, inner), 100_000, iter([0])))


@style
def iterators_freed():
    made = nest(itertools.chain, 100_000, iter([0]))
    del made


@style
def methods_freed():
    made = nest(lambda inner: types.MethodType(len, inner), 100_000, [])
    del made


@style
def cells_freed():
    def close_over(inner):
        return lambda: inner

    made = nest(close_over, 100_000)
    del made


@style
def lists_freed():
    made = nest(lambda inner: [inner], 200_000)
    del made


@style
def tuples_freed():
    made = nest(lambda inner: (inner,), 200_000)
    del made


@style
def dicts_freed():
    made = nest(lambda inner: {0: inner}, 200_000)
    del made


@style
def objects_freed():
    class Node:
        def __init__(self, next):
            self.next = next

    made = nest(Node, 200_000)
    del made


@style
def objects_with_del_freed():
    class Node:
        __slots__ = ("next",)

        def __init__(self, next):
            self.next = next

        def __del__(self):
            pass

    made = nest(Node, 200_000)
    del made


@style
def generators_freed():
    def generator(inner):
        yield inner

    made = nest(generator, 100_000)
    del made


@style
def started_generators_freed():
    def generator(inner):
        yield
        yield inner

    def start(inner):
        made = generator(inner)
        next(made)
        return made

    made = nest(start, 100_000)
    del made


@style
def exceptions_freed():
    def chain(inner):
        error = ValueError()
        error.__context__ = inner
        return error

    made = nest(chain, 100_000)
    del made


@style
def elements_freed():
    def wrap(inner):
        element = ElementTree.Element("a")
        if inner is not None:
            element.append(inner)
        return element

    made = nest(wrap, 100_000)
    del made


@style
def element_to_text():
    def wrap(inner):
        element = ElementTree.Element("a")
        if inner is not None:
            element.append(inner)
        return element

    ElementTree.tostring(nest(wrap, 5000))


@style
def element_from_text():
    ElementTree.parse(io.StringIO("<a>" * 20_000 + "</a>" * 20_000))


@style
def element_deepcopy():
    def wrap(inner):
        element = ElementTree.Element("a")
        if inner is not None:
            element.append(inner)
        return element

    copy.deepcopy(nest(wrap, 100_000))
