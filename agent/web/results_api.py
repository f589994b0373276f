"""Stored results, their pictures, marks, reports and scores."""

from fastapi import APIRouter

router = APIRouter()
