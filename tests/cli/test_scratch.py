from pathlib import Path
import os, sys
def test_a(project):
  with open("/tmp/scr/o.txt","w") as f:
    def show(*w):
        c = project.run(*w); print("$", *w, "->", c,file=f); print(project.out[-1500:] + project.err[-1500:].replace("INFO: Seed set to 0\n",""),file=f)
    def y(edit): show("fit","-c",project.change("m.yaml",edit))
    def l(c): return c["model"]["init_args"]
    kd={"class_path":"LogitKD","init_args":{"temperature":2.0}}
    teacher={"class_path":"FrozenTeacher","init_args":{"model":{"class_path":"MultimodalModel","init_args":{"num_classes":2,"encoders":{"text":{"class_path":"ByteTextCNN"}}}}}}
    def withkd(c,**kw):
        l(c)["teacher"]=teacher; l(c)["losses"]={"kd":kd|kw}
    y(lambda c: c["trainer"].update(max_epoch=3))
    y(lambda c: c.update(trainr={"max_epochs":3}))
    y(lambda c: c["trainer"].update(max_epochs="abc"))
    y(lambda c: c["trainer"].update(accelerator=[1]))
    y(lambda c: l(c).update(studnt=1))
    y(lambda c: c["model"].update(init_arg=1))
    y(lambda c: c["model"].update(class_path="DistilationModule"))
    y(lambda c: c["model"].update(class_path="lightning_distill.module.DistilationModule"))
    y(lambda c: withkd(c,init_args={"temprature":3}))
    y(lambda c: withkd(c,init_args={"temperature":"abc"}))
    y(lambda c: withkd(c,class_path="LogitKDD"))
    y(lambda c: withkd(c,class_path="ByteTextCNN"))
    y(lambda c: withkd(c,class_path="lightning_distill.losses.LogitKDD"))
    y(lambda c: l(c)["student"]["init_args"]["encoders"]["text"].update(class_path="ByteTxtCNN"))
    y(lambda c: l(c)["student"]["init_args"]["encoders"]["text"].update(init_args={"widht":2}))
    y(lambda c: l(c)["student"]["init_args"].update(encoders="ByteTextCNN"))
    y(lambda c: l(c)["student"]["init_args"].update(fusion="AttentonFusion"))
    y(lambda c: l(c)["student"]["init_args"].update(fusion={"class_path":"AttentionFusion","init_args":{"nheads":3}}))
    y(lambda c: l(c)["optimizer"].update(init_args={"lrr":3}))
    y(lambda c: l(c)["optimizer"].update(class_path="torch.optim.AdamWW"))
    y(lambda c: l(c)["optimizer"].update(init_args={"lr":"fast"}))
    y(lambda c: c["data"].update(class_path="TxtDataModule"))
    y(lambda c: c["data"]["init_args"].update(batch_sise=3))
    y(lambda c: c["data"]["init_args"]["source"].update(class_path="tinyy.Tiny"))
    y(lambda c: c["data"]["init_args"]["source"]["init_args"].update(path="nope.csv"))
    y(lambda c: c["data"]["init_args"]["source"]["init_args"].update(modalities={"text":"txt"}))
    y(lambda c: l(c).update(weights={"kd":"x"}))
    y(lambda c: l(c).update(clip_rule={"class_path":"ValueClip"}))
    y(lambda c: l(c).update(clip_rule={"class_path":"ValueClip","init_args":{"epsilon":-1}}))
    y(lambda c: c["trainer"].update(callbacks=[{"class_path":"LearningRateMonitor","init_args":{"loging_interval":"step"}}]))
    y(lambda c: c["trainer"].update(callbacks=[{"class_path":"LearningRateMonito"}]))
    y(lambda c: l(c).update(teacher={"class_path":"FrozenTeacher","init_args":{"model":{"class_path":"lightning_distill.export.load_student","init_args":{"folder":"runs/teacher/student"}}}},losses={"kd":kd}))
    y(lambda c: l(c)["student"]["init_args"].update(num_classes=3))
    Path("m.yaml").write_text("a: [1,\nb: 2"); show("fit","-c","m.yaml")
    Path("m.yaml").write_text("hello"); show("fit","-c","m.yaml")
    b=["fit","-c","small.yaml"]
    show("fit","-c","smal.yaml")
    show("fit"); show("test"); show("fti"); show("--config","x"); show()
    show(*b,"stray")
    show(*b,"--trainer.max_epoch","3"); show(*b,"--trainer.max_epochs","abc"); show(*b,"--modle.losses.kd","LogitKD"); show(*b,"--model.lossses.kd","LogitKD")
    show(*b,"--model.student.encoders.text.widht","3"); show(*b,"--model.optimizer.lrr","3"); show(*b,"--model.optimizer","AdmW"); show(*b,"--model.student.fusion","fus.yaml")
    show(*b,"--model.student.num_classes","abc"); show(*b,"--early_stopping.patiense","3"); show(*b,"--resume","aut"); show(*b,"--resume","auto"); show(*b,"--seed_everything","x")
    show(*b,"--run","r","--resume","auto"); show("test","--run","r"); show("fit","--run","r","--resume","auto"); show(*b, "--trainer.accelerator", "gpu"); show(*b, "--ckpt_path", "nope.ckpt")
    show(*b, "--trainer.max_epochs")
    print(os.popen("ls -la").read(), file=f)
