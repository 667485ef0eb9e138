"""Annotations as files hold them, read as class numbers: one label volume, or one map for every feature."""

from tomoscribe.train.dataset.annotations.contract import Annotation, check_pair
from tomoscribe.train.dataset.annotations.feature_maps import open_feature_maps
from tomoscribe.train.dataset.annotations.label_volume import open_label_volume

__all__ = ["Annotation", "check_pair", "open_feature_maps", "open_label_volume"]
