"""Fixtures of all tests of tracking."""

from tests.support.tracking import database as database
from tests.support.tracking import url as url
