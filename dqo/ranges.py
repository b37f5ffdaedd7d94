"""Ranges that several keys share; a range of one key alone stands in its class's constructor.

``Annotated[int, Field(ge=1, examples=[8])]``: the values that are allowed (pydantic), and the one that an error message
says to type; without examples that is the nearest bound.
"""

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]  # 0 switches something off
Seed = Annotated[int, Field(ge=0, examples=[0])]
Beta = Annotated[float, Field(ge=0, le=1e6, examples=["0.02"])]
# far beyond use at both ends, and within float32's reach
LearningRate = Annotated[float, Field(ge=1e-12, le=10, examples=["1e-5"])]
Temperature = Annotated[float, Field(ge=1e-3, le=1e3, examples=["1.0"])]
CompletionLength = Annotated[int, Field(ge=1, le=1_000_000, examples=[64])]  # tokens
Share = Annotated[float, Field(gt=0, le=1, examples=[0.2])]
Seconds = Annotated[float, Field(gt=0, examples=["30.0"])]  # a time limit
