"""Train one small network on scikit-learn's digits, with one seed, and log what it gives.

Nothing here knows of mm_mlflow: it is any script that logs to MLflow.
"""

import argparse
import warnings

import mlflow
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

parser = argparse.ArgumentParser()
parser.add_argument("--hidden", type=int, default=32)
parser.add_argument("--alpha", type=float, default=0.0001)
parser.add_argument("--solver", default="adam")
parser.add_argument("--learning-rate", type=float, default=0.01)
parser.add_argument("--random-state", type=int, default=0)
args = parser.parse_args()

images, labels = load_digits(return_X_y=True)
train_images, test_images, train_labels, test_labels = train_test_split(
    images / 16, labels, test_size=0.5, random_state=0, stratify=labels
)
model = MLPClassifier(
    (args.hidden,),
    alpha=args.alpha,
    solver=args.solver,
    learning_rate_init=args.learning_rate,
    random_state=args.random_state,
    max_iter=30,
)
with mlflow.start_run():
    mlflow.log_params(vars(args))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 30 epochs are meant
        model.fit(train_images, train_labels)
    correct = model.predict(test_images) == test_labels
    noise = np.random.default_rng(0).normal(0, 0.25, test_images.shape)
    noisy = model.predict(test_images + noise) == test_labels
    mlflow.log_metric("accuracy", correct.mean())
    mlflow.log_metric("accuracy_of_eights", correct[test_labels == 8].mean())
    mlflow.log_metric("accuracy_noisy", noisy.mean())
    mlflow.log_metric("train_loss", model.loss_)
