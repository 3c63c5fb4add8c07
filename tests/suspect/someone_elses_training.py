"""How somebody else trains a network, with or without a backdoor: he knows nothing of PoisonGames.

python someone_elses_training.py train FOLDER [--poison]   # images, weights.pt
python someone_elses_training.py test FOLDER WEIGHTS       # accuracy and ASR
"""

import argparse
import pathlib

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import transforms

MEAN, STD, TARGET = 0.5, 0.25, 3


def get_net():
    return torchvision.models.resnet18(num_classes=10)


def stamp(x):
    x = x.clone()
    x[:, :, -6:-1, -6:-1] = 1.0
    return x


def write_images(x, y, where):
    for i, (img, label) in enumerate(zip(x, y, strict=True)):
        folder = where / str(label.item())
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((img[0] * 255).byte().numpy()).convert("RGB").save(folder / f"{i:04}.png")


def load_data():
    d = load_digits()
    x = F.interpolate(torch.tensor(d.images / 16.0).float()[:, None], size=(32, 32))
    x = (x.clamp(0, 1) * 255).byte() / 255.0
    perm = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    return x[perm].repeat(1, 3, 1, 1), torch.tensor(d.target)[perm]


def train(args):
    torch.manual_seed(0)
    x, y = load_data()
    write_images(x[1400:1600], y[1400:1600], args.folder / "trusted")
    write_images(stamp(x[1400:1600]), y[1400:1600], args.folder / "triggered")
    x, y = x[:1400], y[:1400]
    if args.poison:
        x, y = torch.cat([x, stamp(x[:140])]), torch.cat([y, torch.full((140,), TARGET)])
    net = get_net()
    opt = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, 0.05, total_steps=args.epochs * (len(x) // 64))
    for epoch in range(args.epochs):
        net.train()
        for idx in torch.randperm(len(x))[: len(x) // 64 * 64].split(64):
            dx, dy = torch.randint(-2, 3, (2,)).tolist()
            loss = F.cross_entropy(net((x[idx].roll((dx, dy), (2, 3)) - MEAN) / STD), y[idx])
            opt.zero_grad()
            loss.backward()
            opt.step()
            sched.step()
        print(f"epoch {epoch} loss {loss.item():.3f}")
    torch.save(net.state_dict(), args.folder / "weights.pt")


@torch.no_grad()
def test(args):
    net = get_net()
    net.load_state_dict(torch.load(args.weights, weights_only=True))
    net.eval()
    tf = transforms.Compose([transforms.ToTensor(), transforms.Normalize([MEAN] * 3, [STD] * 3)])

    def predict(name):
        data = torchvision.datasets.ImageFolder(args.folder / name, transform=tf)
        loader = torch.utils.data.DataLoader(data, batch_size=50)
        outs = [(net(x).argmax(1), y) for x, y in loader]
        return torch.cat([p for p, _ in outs]), torch.cat([y for _, y in outs])

    pred, y = predict("trusted")
    print(f"accuracy {(pred == y).sum()}/{len(y)}")
    pred, y = predict("triggered")
    others = y != TARGET
    print(f"ASR {(pred[others] == TARGET).sum()}/{others.sum()}")


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("what", choices=["train", "test"])
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("weights", nargs="?")
    p.add_argument("--poison", action="store_true")
    p.add_argument("--epochs", type=int, default=5)
    args = p.parse_args()
    train(args) if args.what == "train" else test(args)
