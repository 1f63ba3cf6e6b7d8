"""Files of models and data sets: fetched, checked, unpacked and found again."""

from frostline.assets.data_caches import pixels_bytes, pixels_folder, table_folders, trim_pixels
from frostline.assets.fetch import data_file, local_file, model_folder, num_weights, weight_bytes
from frostline.assets.home import home, local_path, places, set_places
from frostline.assets.hub import converted_hub_model, fetched_config, hub_error

__all__ = [
    "converted_hub_model",
    "data_file",
    "fetched_config",
    "home",
    "hub_error",
    "local_file",
    "local_path",
    "model_folder",
    "num_weights",
    "pixels_bytes",
    "pixels_folder",
    "places",
    "set_places",
    "table_folders",
    "trim_pixels",
    "weight_bytes",
]
