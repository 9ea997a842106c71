"""Train, evaluate, register and serve a pneumonia classifier for paediatric chest radiographs."""

from pneumonia.core import quiet as quiet  # before anything imports a library that it keeps quiet
