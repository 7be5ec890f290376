"""Names of models as papers print them."""

NAMES = {
    "lrurec": "LRURec",
    "recblr": "RecBLR",
    "glintru": "GLINT-RU",
    "linrec": "LinRec",
    "sigma": "SIGMA",
    "sasrec": "SASRec",
    "gru4rec": "GRU4Rec",
    "mamba4rec": "Mamba4Rec",
    "markov": "Markov",
    "popularity": "Popularity",
}


def display_name(model: str) -> str:
    """Return a model's name for tables: as its paper writes it, or the name it is registered under."""
    return NAMES.get(model, model)
