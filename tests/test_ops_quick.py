import numpy as np, pytest, torch
from hierlandmark.config import LayoutConfig
from hierlandmark.layout import *
from hierlandmark.ops import landmark_attention

@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("bs,nb,sink,lens", [(8,4,True,[[26,26,13],[26,5,0]]),(8,1,True,[[5,5,2]]),(8,3,False,[[20,20,7,3]]),(64,8,True,[[502,300]])])
def test_eq(mode,bs,nb,sink,lens):
    torch.manual_seed(0)
    cfg=LayoutConfig(block_size=bs,blocks_per_segment=nb,sink=sink)
    lay=Layout.of(lens,cfg)
    B,S,P=lay.kinds.shape; T=S*P
    mk=lambda h: torch.randn(B,h,T,16,dtype=torch.float64)
    q,qf,k,v=mk(6),mk(6),mk(2),mk(2)
    pad=torch.from_numpy(lay.kinds.reshape(B,1,T,1)==0)
    for x in (q,qf,k,v): x.masked_fill_(pad,float('nan')); x.requires_grad_()
    outs=[]
    g=torch.randn(B,6,T,16,dtype=torch.float64)
    for impl in ("reference","blockwise"):
        for x in (q,qf,k,v): x.grad=None
        o=landmark_attention(q,k,v,lay,mode=mode,q_far=qf,impl=impl)
        o.backward(g)
        outs.append([o.detach()]+[x.grad.masked_fill(pad,0) for x in (q,qf,k,v)])
    for n,a,b in zip(["o","q","qf","k","v"],*outs):
        assert not torch.isnan(a).any() and not torch.isnan(b).any(), n
        torch.testing.assert_close(a,b,msg=lambda m:n+m)
    one=landmark_attention(q,k,torch.ones_like(v),lay,mode=mode,q_far=qf)
    assert torch.allclose(one.masked_fill(pad,1),torch.ones_like(one))
