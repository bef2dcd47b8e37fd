"""The stubs of the native part have the names and parameters of the library."""

import ast
import inspect
import pathlib
import unittest

import common

import hiend
from hiend import _hiend

STUBS = ast.parse((pathlib.Path(hiend.__file__).parent / "_hiend.pyi").read_text()).body


def parameters(function):
    """Names of a stub's parameters, the keyword-only ones after a star."""
    arguments = function.args
    names = [argument.arg for argument in arguments.posonlyargs + arguments.args]
    return names + (["*"] if arguments.kwonlyargs else []) + [argument.arg for argument in arguments.kwonlyargs]


def parameters_of(native):
    """Names of a native function's parameters, the keyword-only ones after a star."""
    names, keywords = [], []
    for name, parameter in inspect.signature(native).parameters.items():
        (keywords if parameter.kind is parameter.KEYWORD_ONLY else names).append(name)
    return names + (["*"] if keywords else []) + keywords


def has(function, name):
    return any(isinstance(found, ast.Name) and found.id == name for found in function.decorator_list)


def is_public(name):
    return not name.startswith("_")


class Stubs(unittest.TestCase):
    def test_functions_have_the_parameters_of_the_library(self):
        stubs = {stub.name: parameters(stub) for stub in STUBS if isinstance(stub, ast.FunctionDef)}
        natives = {name: native for name, native in vars(_hiend).items() if inspect.isbuiltin(native)}
        self.assertEqual(stubs, {name: parameters_of(native) for name, native in natives.items() if is_public(name)})
        self.assertIn("convert", stubs)

    def test_classes_have_the_methods_and_properties_of_the_library(self):
        stubs = {stub.name: stub for stub in STUBS if isinstance(stub, ast.ClassDef)}
        self.assertEqual(set(stubs), {name for name, native in vars(_hiend).items() if inspect.isclass(native)})
        for class_name, stub in stubs.items():
            native = getattr(_hiend, class_name)
            methods = {method.name: method for method in stub.body if isinstance(method, ast.FunctionDef)}
            self.assertEqual({*filter(is_public, methods)}, {*filter(is_public, vars(native))}, class_name)
            for name, method in methods.items():
                with self.subTest(f"{class_name}.{name}"):
                    if has(method, "property"):
                        self.assertTrue(inspect.isgetsetdescriptor(vars(native)[name]))
                        self.assertEqual(parameters(method), ["self"])
                    elif name == "__new__":
                        self.assertEqual(parameters(method)[1:], parameters_of(native))
                    else:
                        self.assertEqual(has(method, "staticmethod"), isinstance(vars(native)[name], staticmethod))
                        self.assertEqual(parameters(method), parameters_of(getattr(native, name)))


if __name__ == "__main__":
    common.main()
