"""Reads, checks and writes the config file."""

from fastapi import APIRouter

router = APIRouter()
