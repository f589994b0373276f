"""Teach-in: state, actions and pictures."""

from fastapi import APIRouter

router = APIRouter()
